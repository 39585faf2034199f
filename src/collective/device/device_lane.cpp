#include "collective/device/device_lane.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "scalecom/status.hpp"

namespace scalecom {

DeviceLane::DeviceLane(Accelerator& accelerator, PinnedPool& pinned, DeviceCollectives& collectives,
                       StreamHandle wire)
    : accelerator_(accelerator),
      pinned_(pinned),
      collectives_(collectives),
      passes_(accelerator.make_stream()),
      wire_(collectives.size() == 1 ? passes_.get() : wire),
      handed_over_(accelerator.make_event()) {}

void DeviceLane::go_to_wire() {
  if (wire_ == passes()) return;
  SCALECOM_ASSERT(collectives_.is_posted(), "the wire before what was started is on it");
  accelerator_.record(handed_over_.get(), passes());
  accelerator_.make_wait(wire_, handed_over_.get());
}

void DeviceLane::return_from_wire() {
  if (wire_ == passes()) return;
  SCALECOM_ASSERT(collectives_.is_posted(), "results before what was started is on the wire");
  accelerator_.record(handed_over_.get(), wire_);
  accelerator_.make_wait(passes(), handed_over_.get());
}

// In the stream's order: to free it otherwise would wait for all that is on the device, which a
// rank that is lost may hold up.
AcceleratorMemory DeviceLane::allocate(std::size_t bytes) {
  try {
    return accelerator_.allocate(bytes, {passes(), passes()});
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("a buffer of {} bytes on the device: {}; a lower "
                            "SCALECOM_FUSION_THRESHOLD makes batches, and what they need, smaller",
                            bytes, error.what()));
  }
}

bool DeviceLane::give_back() {
  bool has_any = false;
  for (Memory& memory : memory_) {
    has_any = has_any || memory.bytes > 0;
    memory = {};
  }
  return has_any;
}

std::byte* DeviceLane::acquire(Buffer buffer, std::size_t bytes) {
  Memory& memory = memory_[static_cast<std::size_t>(buffer)];
  if (memory.bytes < bytes) {
    memory = {};  // Given back first: both may not fit.
    memory = {allocate(bytes), bytes};
    accelerator_.set_zero(memory.data.get(), bytes, passes());
  }
  return memory.data.get();
}

CopyTable& DeviceLane::assign(Copy copy, std::span<const CopyTensor> tensors) {
  return copies_[static_cast<std::size_t>(copy)].assign(table_place(), tensors);
}

StepTable& DeviceLane::assign(std::span<const StepTensor> tensors) {
  return steps_.assign(table_place(), tensors);
}

SampleTable& DeviceLane::assign(std::span<const SampledTensor> tensors) {
  return samples_.assign(table_place(), tensors);
}

}  // namespace scalecom
