#include "runtime/negotiation/release_policy.hpp"

#include <algorithm>

#include "runtime/negotiation.hpp"
#include "runtime/negotiation/times.hpp"

namespace scalecom::negotiation {

ReleasePolicy::ReleasePolicy(double cycle_time_ms, std::int64_t threshold_bytes)
    : is_adaptive_(cycle_time_ms < 0),
      limit_(is_adaptive_ ? Clock::duration(kAdaptiveLimit) : seconds_of(cycle_time_ms / 1e3)),
      threshold_bytes_(threshold_bytes) {}

TimePoint ReleasePolicy::hold_until(const ReleaseSituation& situation) const {
  if (situation.backlog >= kBacklogMax) return TimePoint::max();
  if (situation.ready_bytes >= threshold_bytes_) return TimePoint::min();
  if (!situation.youngest_partial) return TimePoint::min();
  TimePoint until = std::min(situation.ready_since, *situation.youngest_partial) + limit_;
  if (is_adaptive_) until = std::min(until, situation.last_arrival + kQuietTime);
  return until;
}

}  // namespace scalecom::negotiation
