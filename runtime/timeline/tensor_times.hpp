#pragma once

#include "runtime/timeline/timeline_event.hpp"

namespace scalecom {

/// Where a tensor in flight has been, for a timeline; its epoch's zero: not yet, or nobody looked.
struct TensorTimes {
  TimelineRow row = 0;
  TimePoint submitted{};
  TimePoint agreed{};
};

}  // namespace scalecom
