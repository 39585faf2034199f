#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/deadline.hpp"

namespace scalecom::negotiation {

/// What rank 0 sees when it decides whether the tensors that are ready go out now.
struct ReleaseSituation {
  std::size_t backlog = 0;  ///< agreements that wait for their execution or are in it
  std::int64_t ready_bytes = 0;
  TimePoint ready_since{};   ///< when the first of them became ready
  TimePoint last_arrival{};  ///< of any request
  /// When the youngest partly submitted tensor was first heard of; nothing: there is none.
  std::optional<TimePoint> youngest_partial;
};

/// How long tensors that are ready wait for others that are on their way, so that they are fused.
///
/// While the execution has enough to do (a backlog of kBacklogMax agreements) all wait for it: they
/// could not be executed sooner, and one that is more urgent may still overtake them. Else nothing
/// waits once `threshold_bytes` are ready, nor while every known tensor is ready; otherwise the
/// ready ones wait for at most the cycle time. A partly submitted tensor is taken to be on its way
/// only for a cycle time after it was first heard of: a rank that stays away delays its own tensor.
///
/// Adaptive: at most kAdaptiveLimit, and only while requests keep coming, none missing for longer
/// than kQuietTime. A gap of that length is what a message costs between hosts: within a burst
/// the next request follows sooner, and without one the wait is short against any gain.
class ReleasePolicy {
 public:
  static constexpr auto kAdaptiveLimit = std::chrono::milliseconds(1);
  static constexpr auto kQuietTime = std::chrono::microseconds(100);

  ReleasePolicy(double cycle_time_ms, std::int64_t threshold_bytes);

  /// Until when the ready tensors wait: TimePoint::min() not at all, TimePoint::max() until the
  /// situation changes.
  TimePoint hold_until(const ReleaseSituation& situation) const;

 private:
  bool is_adaptive_;
  Clock::duration limit_;
  std::int64_t threshold_bytes_;
};

}  // namespace scalecom::negotiation
