#include "base/wait.hpp"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <string>

#include "scalecom/status.hpp"

namespace scalecom {
namespace {

// About 2 us of polling: longer than a message between two running ranks takes.
constexpr unsigned kSpins = 64;
// Then the core is offered to others, which costs well below a microsecond when nobody wants it.
constexpr unsigned kYields = 2000;
constexpr unsigned kChecksEvery = 64;
constexpr long kSleepNsMin = 20'000;
constexpr long kSleepNsMax = 500'000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void WaitLoop::pause(std::string_view what) {
  const unsigned poll = polls_++;
  if (poll < kSpins) {
    relax();
    return;
  }
  const unsigned waited = poll - kSpins;
  const bool is_sleeping = waited >= kYields;
  if (is_sleeping || waited % kChecksEvery == 0) {
    if (context_.interrupt != nullptr) context_.interrupt->check();
    if (context_.deadline.has_passed()) {
      throw Error(StatusCode::timed_out, std::string(what) + ": the deadline has passed");
    }
  }
  if (!is_sleeping) {
    sched_yield();
    return;
  }
  const unsigned doublings = std::min((waited - kYields) / 8, 5u);
  timespec pause_for{0, std::min(kSleepNsMin << doublings, kSleepNsMax)};
  nanosleep(&pause_for, nullptr);
}

}  // namespace scalecom
