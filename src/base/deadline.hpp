#pragma once

#include <chrono>

namespace scalecom {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

/// When a wait must give up. There is no "never": every wait has a deadline.
class Deadline {
 public:
  explicit Deadline(TimePoint at) : at_(at) {}
  template <class Rep, class Period>
  static Deadline after(std::chrono::duration<Rep, Period> limit) {
    return Deadline(Clock::now() + std::chrono::duration_cast<Clock::duration>(limit));
  }

  TimePoint at() const noexcept { return at_; }
  bool has_passed() const noexcept { return Clock::now() >= at_; }

 private:
  TimePoint at_;
};

}  // namespace scalecom
