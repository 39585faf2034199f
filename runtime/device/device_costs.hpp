#pragma once

#include <cstdint>
#include <string>

#include "collective/collectives.hpp"
#include "collective/cost_model.hpp"
#include "collective/device/device_lane.hpp"

namespace scalecom {

/// What passes over an accelerator's memory take, and all-reduces of what is there.
struct DeviceCosts {
  /// Of a dense batch, with what packs and unpacks it: so much, and more a byte. Infinite where a
  /// rank could not measure.
  double all_reduce_s = 0.0;
  double all_reduce_byte_s = 0.0;
  KernelCosts kernels;

  bool is_measured() const noexcept;
  double all_reduce_time_s(std::int64_t bytes) const noexcept;
};

/// For people.
std::string describe(const DeviceCosts& costs);

/// How much is measured.
struct MeasuredSizes {
  /// Of float32, 14 bytes each with all that a step has: a GPU's cache has up to 50 MB, and a
  /// model's tensors are not found there.
  std::int64_t elements = 1 << 23;
  /// All-reduced. What takes latency alone, and what hardly does: a second's worth of 100 Mbit/s.
  std::int64_t few_bytes = 32 << 10;
  std::int64_t many_bytes = 8 << 20;
};

/// Of each figure the slowest rank's, the same on all ranks. Called by all ranks at once, with the
/// lane free and nothing under way in its collectives or in `host`, which tell the others. Takes
/// some ms and 115 MB (of the usual sizes), which the accelerator has for later batches then, and
/// leaves the lane free. A rank without such memory says so, and nothing is measured. Throws what
/// collectives throw.
DeviceCosts measure_device_costs(DeviceLane& lane, Collectives& host, const MeasuredSizes& sizes,
                                 const WaitContext& context);

}  // namespace scalecom
