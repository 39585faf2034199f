#pragma once

#include <cstdint>
#include <variant>

#include "base/deadline.hpp"

namespace scalecom {

/// Number of a tensor's row; 0 is the row of what belongs to no tensor.
using TimelineRow = std::uint32_t;

/// A time in which a tensor was in `name`, with what is known of its batch.
struct TimelineSpan {
  const char* name = nullptr;  ///< a literal
  Clock::duration length{};
  std::int64_t step = -1;  ///< of a compressed tensor; -1: not one
  std::int64_t batch_bytes = 0;
  std::int32_t batch_tensors = 0;  ///< 0: nothing about a batch
  std::int32_t leader = -1;        ///< -1: none
};

/// The ranks [first, end) have submitted the tensor.
struct TimelineArrival {
  std::int32_t first = 0;
  std::int32_t end = 0;
};

/// A cycle begins.
struct TimelineCycle {};

/// What a compressed tensor's sampled step has shown; see CompressionHealth.
struct TimelineHealth {
  double relative_error = 0.0;
  double residual_to_gradient = 0.0;
  double hamming_distance = 0.0;
  double chunk_overlap = 0.0;
};

/// Of one size, so that they fit into a ring.
struct TimelineEvent {
  TimePoint at{};
  TimelineRow row = 0;
  std::variant<TimelineSpan, TimelineArrival, TimelineCycle, TimelineHealth> what;
};

}  // namespace scalecom
