#pragma once

#include <functional>
#include <string>
#include <vector>

#include "device/cuda/stream.hpp"

namespace scalecom::bench {

/// Something to measure on a stream.
struct Workload {
  std::string name;
  double bytes = 0.0;  ///< that one call has to move
  std::function<void(device::cuda::StreamHandle)> run;
  /// Enqueued before each run and not measured; may be empty.
  std::function<void(device::cuda::StreamHandle)> prepare;
  int calls = 1;  ///< what `run` does, in calls
};

/// Milliseconds a call.
struct Measured {
  double median = 0.0;
  double least = 0.0;
  double most = 0.0;
};

/// Measures all workloads `rounds` times in turn, in a new random order each round, so that a
/// change of the device's speed meets all of them. In the order of the workloads.
std::vector<Measured> measure(const std::vector<Workload>& workloads, int rounds);

}  // namespace scalecom::bench
