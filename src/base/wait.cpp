#include "base/wait.hpp"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <string>

#include "scalecom/status.hpp"

namespace scalecom {
namespace {

// By time and not by polls: a poll of several requests takes a microsecond, and a yield takes
// milliseconds where others want the core. Longer than a message between two running ranks takes.
constexpr auto kSpinTime = std::chrono::microseconds(2);
// Then the core is offered to others, which costs well below a microsecond when nobody wants it.
// Who can be woken goes to sleep after a few times what a wake-up costs (4 to 50 us): a thread that
// wakes is put on an idle core, where one that yields stays beside the thread it waits for. With
// 30 us, 1 MiB takes half as long again on 2 and on 4 ranks. Who has to poll keeps on for longer.
constexpr auto kYieldTimeBeforeWait = std::chrono::microseconds(200);
constexpr auto kYieldTimeBeforePoll = std::chrono::milliseconds(1);
// Then sleeps of an eighth of the time waited so far, within these bounds where it polls.
constexpr auto kSleepMin = std::chrono::microseconds(20);
constexpr auto kSleepMax = std::chrono::microseconds(500);
// A look over MPI and the control channel costs 20 to 50 us with the wake-up, so that in long waits
// 500 us would take up to a tenth of a core. These sleeps end at most a 16th of the wait late.
constexpr int kLongWaitShare = 16;
constexpr auto kLongSleepMax = std::chrono::milliseconds(20);
// Who is woken for what he waits for looks after the rest of the world only.
constexpr auto kWakeableSleepMax = std::chrono::milliseconds(50);
constexpr auto kCheckPeriod = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void WaitLoop::pause(std::string_view what) {
  const Clock::duration waited = pause_within(kYieldTimeBeforePoll, what);
  if (waited == Clock::duration::zero()) return;
  const Clock::duration longest =
      std::clamp<Clock::duration>(waited / kLongWaitShare, kSleepMax, kLongSleepMax);
  const std::chrono::nanoseconds time = std::clamp<Clock::duration>(waited / 8, kSleepMin, longest);
  const timespec sleep_for{0, static_cast<long>(time.count())};
  nanosleep(&sleep_for, nullptr);
}

std::chrono::nanoseconds WaitLoop::pause_or_sleep_time(std::string_view what) {
  const Clock::duration waited = pause_within(kYieldTimeBeforeWait, what);
  if (waited == Clock::duration::zero()) return {};
  return std::clamp<Clock::duration>(waited / 8, kSleepMin, kWakeableSleepMax);
}

// Zero after a spin or a yield; else it is time to sleep, and this is how long it has waited.
Clock::duration WaitLoop::pause_within(Clock::duration yield_time, std::string_view what) {
  const TimePoint now = Clock::now();
  if (!is_waiting_) {
    is_waiting_ = true;
    started_ = checked_ = now;
  }
  if (now - checked_ >= kCheckPeriod) {
    checked_ = now;
    if (context_.interrupt != nullptr) context_.interrupt->check();
    if (context_.deadline.has_passed()) {
      throw Error(StatusCode::timed_out, std::string(what) + ": the deadline has passed");
    }
  }
  const auto waited = now - started_;
  if (waited < kSpinTime) {
    relax();
    return {};
  }
  if (waited < yield_time) {
    sched_yield();
    return {};
  }
  return waited;
}

}  // namespace scalecom
