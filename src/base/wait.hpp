#pragma once

#include <chrono>
#include <string_view>

#include "base/deadline.hpp"

namespace scalecom {

/// Looks at the rest of the world while a thread waits for data: the coordinator gives its own, so
/// that a lost rank or a failed session ends the wait.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  /// Called every so often during a wait, on the waiting thread. Throws Error to end the wait.
  virtual void check() = 0;
};

/// How long a wait may take and who may call it off. Passed down every synchronous call.
struct WaitContext {
  Deadline deadline;
  Interrupt* interrupt = nullptr;
};

/// Between two polls of something that wakes nobody; for the time of pause_or_sleep_time().
void sleep_between_polls(std::chrono::nanoseconds time);

/// The one wait discipline of polled transports: spins 2 us, yields the core for a millisecond,
/// then sleeps with back-off (to 500 us; to 8 ms where that is a 32nd of the wait), so that more
/// ranks than cores work well. Construct one per wait and call pause() after each unsuccessful
/// poll.
class WaitLoop {
 public:
  explicit WaitLoop(const WaitContext& context) : context_(context) {}

  /// Gives time away. Throws Error(timed_out) naming `what` once the deadline has passed, or
  /// whatever the interrupt throws.
  void pause(std::string_view what);

  /// As pause(), for a caller who can be woken: where pause() would sleep, it returns for how long
  /// (else zero), and the caller sleeps, at most that long.
  std::chrono::nanoseconds pause_or_sleep_time(std::string_view what);

  /// Progress was made: the next pause spins again.
  void restart() noexcept { is_waiting_ = false; }

 private:
  const WaitContext& context_;
  bool is_waiting_ = false;
  TimePoint started_;
  TimePoint checked_;
};

}  // namespace scalecom
