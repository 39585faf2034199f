#pragma once

#include <chrono>
#include <compare>

namespace scalecom {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

/// When a wait must give up. There is no "never": every wait has a deadline.
class Deadline {
 public:
  explicit Deadline(TimePoint at) : at_(at) {}
  /// Limits that the clock cannot count, beyond some 290 years, end at its last point.
  template <class Rep, class Period>
  static Deadline after(std::chrono::duration<Rep, Period> limit) {
    const TimePoint now = Clock::now();
    // In seconds as a double, which holds any limit; the clock's unit does not.
    using Seconds = std::chrono::duration<double>;
    const Seconds seconds(limit);
    if (seconds <= Seconds::zero()) return Deadline(now);
    if (!(seconds < Seconds(TimePoint::max() - now))) return Deadline(TimePoint::max());
    return Deadline(now + std::chrono::duration_cast<Clock::duration>(limit));
  }

  TimePoint at() const noexcept { return at_; }
  bool has_passed() const noexcept { return Clock::now() >= at_; }
  /// The lesser passes first.
  auto operator<=>(const Deadline&) const = default;

 private:
  TimePoint at_;
};

}  // namespace scalecom
