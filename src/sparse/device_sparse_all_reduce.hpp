#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collective/device/device_all_reduce.hpp"
#include "sparse/device_health.hpp"
#include "sparse/device_sparse_layout.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// ScaleCom all-reduce of a batch in an accelerator's memory: what SparseAllReduce does, to the
/// bit, in its vocabulary, enqueued on a lane's streams without a look of the host at any value.
///
///   passes   select | wire: all-gather of offsets | gather | wire: all-reduce of values | fill
///
/// The offsets travel in the order of ranks, and lie in that of shards: the one is the other turned
/// by the leader. A batch with a sample looks at it behind the gather, and sums it on the wire
/// behind the values.
///
/// NaN and Inf: a mark a tensor, 1 where a rank saw them, travels behind the values in their dtype.
/// On a marked tensor every rank takes its step back, so that the residual is what it was but for
/// one rounding, and the result is NaN everywhere: a dense reduction in its place would need the
/// host.
///
/// Bytes a rank sends (ring): 2(n-1)/n (k + tensors) b, and of offsets (n-1)/n k sharded, k cyclic
/// at most; twice that for offsets of chunks above 256.
class DeviceSparseAllReduce final : public DeviceOperation {
 public:
  /// `layouts` are the lane's. The slots' pointers are the accelerator's memory, aligned to their
  /// elements. `sample` knows what is wanted of them; null: nothing.
  DeviceSparseAllReduce(DeviceLane& lane, DeviceSparseLayouts& layouts,
                        std::span<const SparseSlot> slots, const SparsePlan& plan,
                        DeviceHealthSample* sample = nullptr);

  /// Memory is taken in the constructor and in the first step.
  Collective step() override;

 private:
  enum class Action { average, select, gather, sum_sample, fill };

  void find_turn(const SparsePlan& plan);
  Collective average();
  Collective select();
  Collective gather();
  void look_at_sample();
  void fill();

  DeviceLane& lane_;
  const DeviceSparseLayout& layout_;
  const DeviceSparseLayout::Buffers& buffers_;
  const DataType values_;
  DeviceHealthSample* const sample_;
  const int rank_;
  const int size_;
  std::vector<Action> actions_;
  std::size_t action_ = 0;
  /// Of one step: what this rank leads, and where it is.
  TensorRange led_;
  std::int64_t led_begin_ = 0;  ///< chunk
  std::int64_t led_chunks_ = 0;
  std::int64_t wire_begin_ = 0;           ///< chunk that is first on the wire
  std::byte* wire_ = nullptr;             ///< may be the offsets themselves
  std::vector<std::int64_t> wire_bytes_;  ///< of each rank's offsets
};

}  // namespace scalecom
