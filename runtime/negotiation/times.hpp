#pragma once

#include <algorithm>

#include "base/deadline.hpp"

namespace scalecom::negotiation {

/// A setting in seconds as a duration that can be added to any time point: 0 to ten years.
inline Clock::duration seconds_of(double seconds) {
  constexpr double kTenYears = 3.2e8;
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(std::clamp(seconds, 0.0, kTenYears)));
}

}  // namespace scalecom::negotiation
