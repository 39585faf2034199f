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

/// Of each figure the slowest rank's, the same on all ranks. Called by all ranks at once, with the
/// lane free and nothing under way in its collectives or in `host`, which tell the others. Takes
/// some ms and 115 MB, which the accelerator has for later batches then, and leaves the lane free.
/// A rank without such memory says so, and nothing is measured. Throws what collectives throw.
DeviceCosts measure_device_costs(DeviceLane& lane, Collectives& host, const WaitContext& context);

}  // namespace scalecom
