#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "collective/device/device_collectives.hpp"
#include "collective/device/grown_table.hpp"
#include "kernels/accelerator.hpp"

namespace scalecom {

/// What a batch works with on an accelerator: a stream of its own for passes, the wire (a stream
/// that all lanes share, for what travels), buffers and tables, which grow to the largest batch. A
/// batch has the lane until all of it is done on the device. Confined to one thread, which has
/// entered the accelerator.
class DeviceLane {
 public:
  /// All outlive it. Of a rank alone nothing travels: its passes are its wire.
  DeviceLane(Accelerator& accelerator, PinnedPool& pinned, DeviceCollectives& collectives,
             StreamHandle wire);

  Accelerator& accelerator() const noexcept { return accelerator_; }
  DeviceCollectives& collectives() const noexcept { return collectives_; }
  StreamHandle passes() const noexcept { return passes_.get(); }
  StreamHandle wire() const noexcept { return wire_; }
  /// Where its batches have tables.
  TablePlace table_place() const noexcept { return {accelerator_, passes(), pinned_}; }

  /// What is enqueued on the wire from now on comes behind the passes so far, and the reverse. All
  /// collectives that were started are posted: another thread may be about to enqueue them there.
  void go_to_wire();
  void return_from_wire();

  /// Memory that a batch has at once, by what it holds.
  enum class Buffer : std::size_t {
    packed,
    averages,
    offsets,
    wire,
    values,
    kept,
    reduced,
    counts,
    sample
  };
  /// Zeros at first. Only while the lane is free, for its next batch.
  std::byte* acquire(Buffer buffer, std::size_t bytes);
  template <class T>
  T* acquire(Buffer buffer, std::size_t count) {
    return reinterpret_cast<T*>(acquire(buffer, count * sizeof(T)));
  }

  /// Gives all buffers back, in the order of the passes; whether there were any. Only while the
  /// lane is free.
  bool give_back();

  /// What so many bytes take of Buffer::packed: passes and NCCL then move whole vectors.
  static constexpr std::int64_t slot_bytes(std::int64_t bytes) {
    constexpr std::int64_t kVectorBytes = 16;
    return (bytes + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
  }

  enum class Copy : std::size_t { in, out, settled };
  /// Only while the lane is free, once for a batch.
  CopyTable& assign(Copy copy, std::span<const CopyTensor> tensors);
  StepTable& assign(std::span<const StepTensor> tensors);
  SampleTable& assign(std::span<const SampledTensor> tensors);
  /// GrownTable::reserve(), for that.
  void reserve_samples(std::size_t tensors, std::size_t chunks) {
    samples_.reserve(table_place(), tensors, chunks);
  }
  StepTable& steps() { return *steps_; }
  CopyTable& table(Copy copy) { return *copies_[static_cast<std::size_t>(copy)]; }

 private:
  struct Memory {
    AcceleratorMemory data;
    std::size_t bytes = 0;
  };
  AcceleratorMemory allocate(std::size_t bytes);

  Accelerator& accelerator_;
  PinnedPool& pinned_;
  DeviceCollectives& collectives_;
  StreamOwner passes_;
  const StreamHandle wire_;
  EventOwner handed_over_;
  std::array<Memory, 9> memory_;
  std::array<GrownTable<CopyTable>, 3> copies_;
  GrownTable<StepTable> steps_;
  GrownTable<SampleTable> samples_;
};

}  // namespace scalecom
