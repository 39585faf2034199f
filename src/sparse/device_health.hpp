#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "collective/device/device_lane.hpp"
#include "kernels/pinned_pool.hpp"
#include "sparse/health.hpp"

namespace scalecom {

/// What HealthSample is, of a batch in an accelerator's memory: enqueued on the batch's lane, and
/// read by the host when all of it is done there. Vocabulary: health.hpp. To be used again for
/// another batch when it has been read. The lane outlives it. Confined to one thread, which has
/// entered the accelerator for all but health().
class DeviceHealthSample {
 public:
  explicit DeviceHealthSample(PinnedPool& pinned) : pool_(pinned) {}

  /// A slot of a batch, and the agreed step of its tensor.
  struct Wanted {
    std::size_t slot = 0;
    std::int64_t step = 0;
  };
  /// What the next batch is asked for; the same on all ranks.
  void want(std::vector<Wanted> wanted) { wanted_ = std::move(wanted); }

  /// Consecutive chunks of a slot that are swept.
  struct Part {
    std::size_t slot = 0;
    std::int64_t first = 0;  ///< chunk of the slot
    std::int64_t chunks = 0;
    const std::uint16_t* offsets = nullptr;
    const float* kept = nullptr;
  };
  /// All memory that it takes, before anything of the batch is enqueued; `marks` are fetch()'s. The
  /// slots' chunks and counts are those that look() is given.
  void acquire(DeviceLane& lane, std::span<const SparseSlot> slots, std::size_t marks);
  /// Behind the sweeps, before anything of the step is taken back and results are filled in.
  void look(DeviceLane& lane, std::span<const SparseSlot> slots, std::span<const Part> parts);
  /// Starts one collective at most, on the wire, which comes behind the look.
  void sum(DeviceLane& lane, const WaitContext& context);
  /// Behind the sum. `marks` has one of each slot: not zero where its step is void.
  void fetch(DeviceLane& lane, const float* marks);

  /// By what was wanted, once for a batch, when all is done on the device; none of a step that is
  /// void.
  std::vector<std::optional<TensorHealth>> health(int size);

 private:
  struct Tensor {
    std::vector<std::int64_t> chunks;  ///< sampled, in rising order
    std::size_t first_chunk = 0;       ///< of those of all tensors
    std::size_t elements = 0;
    std::size_t begin = 0;  ///< of its values
    std::size_t chunk = 0;  ///< C
  };

  void lay_out(std::span<const SparseSlot> slots);
  std::vector<SampledChunk> find_chunks(std::span<const SparseSlot> slots,
                                        std::span<const Part> parts) const;
  // A block on the device and in pinned memory: values, figures, offsets; there also marks.
  std::size_t figures_begin() const { return values_ * sizeof(float); }
  std::size_t offsets_begin() const {
    return figures_begin() + 2 * tensors_.size() * sizeof(float);
  }
  std::size_t marks_begin() const;
  template <class T>
  const T* pinned(std::size_t begin) const {
    return reinterpret_cast<const T*>(pinned_.get() + begin);
  }

  PinnedPool& pool_;
  std::vector<Wanted> wanted_;
  std::vector<Tensor> tensors_;  ///< as wanted_
  std::size_t values_ = 0;
  std::size_t chunks_ = 0;
  std::size_t marks_ = 0;
  std::byte* block_ = nullptr;
  AcceleratorMemory pinned_;  ///< from acquire() until health()
};

}  // namespace scalecom
