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
// Who can be woken goes to sleep after about what a wake-up costs (4 to 30 us): a thread that wakes
// is put on an idle core, where one that yields stays beside the thread it waits for. Who has to
// poll keeps on for longer.
constexpr auto kYieldTimeBeforeWait = std::chrono::microseconds(30);
constexpr auto kYieldTimeBeforePoll = std::chrono::milliseconds(1);
// Then sleeps of an eighth of the time waited so far, within these bounds.
constexpr auto kSleepMin = std::chrono::microseconds(20);
constexpr auto kSleepMax = std::chrono::microseconds(500);
// In long waits 500 us would cost 1.6 % of a core. These sleeps end at most a 32nd of the wait
// late.
constexpr int kLongWaitShare = 32;
constexpr auto kLongSleepMax = std::chrono::milliseconds(8);
constexpr auto kCheckPeriod = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void WaitLoop::pause(std::string_view what) {
  const std::chrono::nanoseconds time = pause_within(kYieldTimeBeforePoll, what);
  const timespec sleep_for{0, static_cast<long>(time.count())};
  if (time.count() > 0) nanosleep(&sleep_for, nullptr);
}

std::chrono::nanoseconds WaitLoop::pause_or_sleep_time(std::string_view what) {
  return pause_within(kYieldTimeBeforeWait, what);
}

std::chrono::nanoseconds WaitLoop::pause_within(Clock::duration yield_time, std::string_view what) {
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
  const auto longest =
      std::clamp<Clock::duration>(waited / kLongWaitShare, kSleepMax, kLongSleepMax);
  return std::clamp<Clock::duration>(waited / 8, kSleepMin, longest);
}

}  // namespace scalecom
