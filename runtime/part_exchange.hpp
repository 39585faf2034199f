#pragma once

#include <span>

#include "collective/collectives.hpp"
#include "runtime/fusion.hpp"
#include "runtime/tensor_queue.hpp"

namespace scalecom {

/// Carries out the operations in which ranks exchange parts of tensors: all-gather, reduce-scatter,
/// all-to-all. A batch of several tensors travels as one: packed rank by rank, and for each rank
/// tensor by tensor. Results go to the tickets. Confined to the coordinator's thread.
class PartExchange {
 public:
  /// `collectives` outlives this object.
  PartExchange(Collectives& collectives, int rank, int size)
      : collectives_(collectives), rank_(rank), size_(size) {}

  /// `tensors[i]` is the submission behind agreed[i]; for reduce_scatter all have one dtype and
  /// op. Throws what the collectives throw.
  void all_gather(std::span<const AgreedTensor* const> agreed,
                  std::span<PendingTensor* const> tensors, const WaitContext& context);

  /// The first dimension is cut as evenly as can be, the first ranks get one row more.
  void reduce_scatter(const Batch& batch, std::span<PendingTensor* const> tensors,
                      const WaitContext& context);

  void all_to_all(std::span<const AgreedTensor* const> agreed,
                  std::span<PendingTensor* const> tensors, const WaitContext& context);

 private:
  Collectives& collectives_;
  const int rank_;
  const int size_;
  Scratch packed_;
  Scratch unpacked_;
};

}  // namespace scalecom
