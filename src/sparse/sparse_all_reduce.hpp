#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/wait.hpp"
#include "collective/collectives.hpp"
#include "kernels/reduce.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// One tensor of a ScaleCom batch. All spans have `count` elements.
struct SparseSlot {
  std::string_view name;
  /// This rank's gradient, contiguous, of `dtype`. Not changed unless it is `result`.
  const std::byte* gradient = nullptr;
  /// Receives the averaged values on the selected coordinates and zero elsewhere. May be
  /// `gradient`.
  std::byte* result = nullptr;
  /// This rank's memory m, updated in place. Finite after each step if it was before.
  float* residual = nullptr;
  std::int64_t count = 0;
  /// float32, float16 or bfloat16; residual and wire values are float32.
  DataType dtype = DataType::float32;
  /// Chunk length C, 1 to 65,536.
  std::int64_t rate = 1;
  double beta = 1.0;
  /// g = prescale * gradient.
  double prescale = 1.0;
  /// Applied to the reduced values (an average divides by the world size here).
  kernels::Scale result_scale;

  /// Out: elements on this rank that were NaN or Inf in m + g.
  std::int64_t nonfinite_count = 0;
  /// Out: some rank had NaN or Inf, so this tensor went dense in this step: result is the dense
  /// reduction of g, and the residuals keep their values but for one float32 rounding of m + beta
  /// g.
  bool went_dense = false;
};

/// ScaleCom all-reduce of a batch: CLT-k with error feedback and low-pass filter (Chen et al.,
/// NeurIPS 2020, arXiv 2104.11125, section 3 and algorithm 1).
///
/// Vocabulary: C chunk length, k = ceil(count / C) selected elements, m residual, g gradient,
/// p = m + g. One step: every rank sweeps its tensors once (m <- m + beta g; the leader also finds
/// the largest |p| of each chunk, lowest index on ties); the leader broadcasts in-chunk offsets
/// (8 bits for C <= 256, else 16); every rank gathers p on them, all-reduces the values (and one
/// flag a tensor that says "I saw NaN or Inf"), and writes the result;
/// m <- (1-beta) m + beta (p - sent) holds on every coordinate afterwards.
///
/// Bytes a rank sends (ring): 2(n-1)/n (k + 1) 4 per tensor, and the offsets once per rank at most
/// log2(n) times. Confined to one thread; owns scratch memory that grows to the largest batch.
class SparseAllReduce {
 public:
  /// `collectives` outlives this object.
  explicit SparseAllReduce(Collectives& collectives, int rank, int size);

  /// Runs one batch; every rank calls it with agreeing slots and the same leader: exchange(), then
  /// deliver(). Throws what the collectives throw; the residuals are then between two steps and the
  /// session has failed.
  void run(std::span<SparseSlot> slots, int leader, const WaitContext& context) {
    exchange(slots, leader, context);
    deliver(slots, context);
  }

  /// Up to the reduced values: residuals are changed, results are not.
  void exchange(std::span<SparseSlot> slots, int leader, const WaitContext& context);
  /// Writes the results of the last exchange().
  void deliver(std::span<SparseSlot> slots, const WaitContext& context);
  /// In place of deliver(): as if there had been no step. Residuals are as before but for one
  /// float32 rounding of m + beta g.
  void take_back(std::span<const SparseSlot> slots);

  /// In place of run(), for a rank that has no data: takes part in an exchange whose values are
  /// thrown away on all ranks. Only count and rate of the slots are looked at.
  void exchange_nothing(std::span<const SparseSlot> slots, int leader, const WaitContext& context);

 private:
  /// Slot i's elements start at places_[i].selected in selected_, values_ and kept_, and at
  /// places_[i].wire in wire_. One more place is the end of the last slot.
  struct Place {
    std::int64_t selected = 0;
    std::int64_t wire = 0;
  };

  void lay_out(std::span<const SparseSlot> slots);
  void sweep(std::span<SparseSlot> slots, bool is_leader);
  void broadcast_offsets(int leader, const WaitContext& context);
  void gather(std::span<const SparseSlot> slots);
  void reduce_values(std::size_t slots, const WaitContext& context);
  void take_back(const SparseSlot& slot, const Place& place) const;
  void reduce_dense(SparseSlot& slot, const Place& place, const WaitContext& context);

  Collectives& collectives_;
  const int rank_;
  const int size_;
  std::vector<Place> places_;
  std::vector<std::byte> wire_;
  std::vector<std::uint16_t> selected_;
  /// k values of each tensor, then one flag of each: not 0 where this rank saw NaN or Inf.
  std::vector<float> values_;
  /// The swept memory of the selected coordinates, for a tensor that has to go dense.
  std::vector<float> kept_;
};

}  // namespace scalecom
