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

/// The one wait discipline: spins 2 us, yields the core, then sleeps with back-off (to 500 us; to
/// 20 ms where that is a 16th of the wait; who can be woken to 50 ms), so that more ranks than
/// cores work well. Construct one per wait and call one of the pauses after each unsuccessful poll.
class WaitLoop {
 public:
  explicit WaitLoop(const WaitContext& context) : context_(context) {}

  /// For what wakes nobody. Throws Error(timed_out) naming `what` once the deadline has passed, or
  /// whatever the interrupt throws.
  void pause(std::string_view what);

  /// As pause(), for a caller who can be woken, and yields for a shorter time: where it is time to
  /// sleep, it returns for how long (else zero), and the caller sleeps, at most that long.
  std::chrono::nanoseconds pause_or_sleep_time(std::string_view what);

  /// Progress was made: the next pause spins again.
  void restart() noexcept { is_waiting_ = false; }

 private:
  Clock::duration pause_within(Clock::duration yield_time, std::string_view what);

  const WaitContext& context_;
  bool is_waiting_ = false;
  TimePoint started_;
  TimePoint checked_;
};

}  // namespace scalecom
