#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collective/device/device_all_reduce.hpp"
#include "sparse/device_health.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// ScaleCom all-reduce of a batch in an accelerator's memory: what SparseAllReduce does, to the
/// bit, in its vocabulary, enqueued on a lane's streams without a look of the host at any value.
///
///   passes   select | wire: all-gather of offsets | gather | wire: all-reduce of values | fill
///
/// A batch with a sample looks at it behind the gather, and sums it on the wire behind the values.
///
/// Each tensor is cut in one shard a rank (cyclic: the leader has all of it). NaN and Inf: a mark a
/// tensor, 1 where a rank saw them, travels behind the values in their dtype. On a marked tensor
/// every rank takes its step back, so that the residual is what it was but for one rounding, and
/// the result is NaN everywhere: a dense reduction in its place would need the host.
///
/// Bytes a rank sends (ring): 2(n-1)/n (k + tensors) b, and of offsets (n-1)/n k sharded, k cyclic
/// at most; twice that for offsets of chunks above 256.
class DeviceSparseAllReduce final : public DeviceOperation {
 public:
  /// The slots' pointers are the accelerator's memory, aligned to their elements. `sample` knows
  /// what is wanted of them; null: nothing.
  DeviceSparseAllReduce(DeviceLane& lane, std::vector<SparseSlot> slots, const SparsePlan& plan,
                        DeviceHealthSample* sample = nullptr);

  bool step(const WaitContext& context) override;

 private:
  /// Consecutive chunks of a slot with one leader.
  struct Part {
    std::size_t slot = 0;
    int leader = 0;
    std::int64_t first = 0;  ///< element of the slot
    std::int64_t count = 0;  ///< elements
    std::int64_t begin = 0;  ///< its first chunk's place in the batch
    std::int64_t chunks = 0;
  };
  enum class Action { average, select, gather, sum_sample, fill };

  void lay_out();
  void add_part(std::size_t slot, int shard, int shards, int leader);
  void acquire_buffers();
  void average(const WaitContext& context);
  void select(const WaitContext& context);
  void gather(const WaitContext& context);
  void look_at_sample();
  void fill();
  void scale_averages();
  void assign_tables();
  StepTensor row_of(const Part& part) const;

  DeviceLane& lane_;
  std::vector<SparseSlot> slots_;
  std::vector<DataType> result_dtypes_;  ///< a slot's own one is the average's, if there is one
  const SparsePlan plan_;
  DeviceHealthSample* const sample_;
  const int rank_;
  const int size_;
  std::vector<Part> parts_;  ///< in the order of their leaders
  std::vector<Action> actions_;
  std::size_t action_ = 0;
  bool has_averages_ = false;
  std::int64_t elements_ = 0;
  std::int64_t chunks_ = 0;               ///< of all slots
  std::int64_t offset_bytes_ = 1;         ///< of one on the wire
  std::vector<std::int64_t> wire_bytes_;  ///< of each rank's offsets
  std::byte* wire_ = nullptr;
  std::uint16_t* offsets_ = nullptr;
  std::byte* values_ = nullptr;  ///< and the marks
  float* kept_ = nullptr;
  float* reduced_ = nullptr;  ///< and the marks
  std::int64_t* counts_ = nullptr;
  float* averages_ = nullptr;
};

}  // namespace scalecom
