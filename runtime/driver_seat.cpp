#include "runtime/driver_seat.hpp"

#include <sched.h>

namespace scalecom {
namespace {

// A waiting thread that finds the seat taken looks this often, giving the core away in between:
// the session's thread makes way within it, unless it is in something that it cannot leave.
constexpr auto kPollTime = std::chrono::microseconds(20);

}  // namespace

void DriverSeat::drive_until(const std::function<bool()>& is_enough, Deadline deadline) {
  if (!try_take() && !take_if_soon_free(is_enough)) return;
  drives_.fetch_add(1);
  work_.drive(is_enough, deadline);
  // Before the seat is given: afterwards the work may be over, and gone.
  if (work_.needs_session_thread()) {
    call();
    work_.wake_session_thread();
  }
  give();
}

bool DriverSeat::take_if_soon_free(const std::function<bool()>& is_enough) {
  wanted_.fetch_add(1);
  bool has_taken = false;
  for (const Deadline end = Deadline::after(kPollTime); !end.has_passed() && !is_enough();) {
    has_taken = try_take();
    if (has_taken) break;
    sched_yield();
  }
  wanted_.fetch_sub(1);
  // The session's thread may have made way in this very moment.
  if (!has_taken && !is_taken_.load()) call();
  return has_taken;
}

void DriverSeat::look_in_vain() {
  if (is_napping_.load() && !is_taken_.load() && owner_.is_here()) call();
}

void DriverSeat::call() {
  {
    const std::lock_guard lock(mutex_);
    is_called_ = true;
  }
  changed_.notify_one();
}

void DriverSeat::take() {
  for (;;) {
    const std::uint64_t drives = drives_.load();
    const bool is_quiet = drives == drives_seen_ && !is_wanted();
    drives_seen_ = drives;
    if (!is_quiet && !is_called() && (is_taken_.load() || is_wanted() || !work_.has_news())) {
      nap();
      continue;
    }
    if (try_take()) break;
    stand_by();
  }
  is_called_ = false;
}

// All of these are sequentially consistent: either the session's thread sees the seat free, or this
// one sees it standing by.
void DriverSeat::give() {
  is_taken_.store(false);
  if (!is_standing_by_.load()) return;
  { const std::lock_guard lock(mutex_); }
  changed_.notify_one();
}

void DriverSeat::nap() {
  std::unique_lock lock(mutex_);
  is_napping_ = true;
  changed_.wait_for(lock, kNapTime, [this] { return is_called(); });
  is_napping_ = false;
}

void DriverSeat::stand_by() {
  std::unique_lock lock(mutex_);
  is_standing_by_ = true;
  changed_.wait(lock, [this] { return !is_taken_.load(); });
  is_standing_by_ = false;
}

void DriverSeat::close() {
  while (!try_take()) stand_by();
}

}  // namespace scalecom
