#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

#include "base/deadline.hpp"
#include "runtime/owner_process.hpp"

namespace scalecom {

/// Work that one thread at a time can carry on. Called from the thread in the seat.
class Drivable {
 public:
  virtual ~Drivable() = default;
  /// Carries the work on, waiting for more, until `is_enough`, the deadline, or something comes
  /// next that cannot be left half-way: a waiting thread has a deadline of its own.
  virtual void drive(const std::function<bool()>& is_enough, Deadline deadline) = 0;
  /// Whether there is something to do, or to wait for, that the session's thread does not know of.
  virtual bool needs_session_thread() const = 0;
  /// Wakes the session's thread where it sleeps for news.
  virtual void wake_session_thread() = 0;
  /// Whether news came that nobody was woken for. From the session's thread, in the seat or not.
  virtual bool has_news() const noexcept = 0;
};

/// Who drives a session: at any moment one thread at most is in the seat, the session's own or one
/// that waits for a ticket. A thread that drives while it waits saves the two thread switches of
/// handing its work over and its result back, and leaves the core beside it to another rank.
///
/// The session's thread sees to it that work goes on when nobody waits. It makes way for threads
/// that wait, and as long as they come again and again, it only looks in every kNapTime, so that a
/// submit in a loop of blocking calls wakes nobody. It sleeps while one of them drives on and on.
class DriverSeat {
 public:
  /// How long work may lie that nobody was woken for. Naps of 4 ms instead wake less often in a
  /// loop of blocking calls, but where other work shares the cores, hundreds of 20,000 calls then
  /// took milliseconds (at most 43 with 500 us, five runs of each in turns).
  static constexpr auto kNapTime = std::chrono::microseconds(500);

  /// `work` is not called any more after close().
  explicit DriverSeat(Drivable& work) : work_(work) {}

  /// In any other process nobody is to wait for something here, nor to drive.
  const OwnerProcess& owner() const noexcept { return owner_; }

  /// A waiting thread: drives until `is_enough`, the deadline, or Drivable::drive() returns before.
  /// Returns soon without having done anything where another thread keeps the seat.
  void drive_until(const std::function<bool()>& is_enough, Deadline deadline);
  /// A thread has looked for a result in vain and may go on looking: wakes the session's thread.
  void look_in_vain();

  // The session's thread

  /// Takes the seat, once it is free and no waiting thread is about to take it.
  void take();
  void give();
  /// Whether a waiting thread wants the seat.
  bool is_wanted() const noexcept { return wanted_.load(std::memory_order_relaxed) > 0; }
  /// Whether there is something to do since take(): look after this before going to sleep.
  bool is_called() const noexcept { return is_called_.load(); }
  /// Takes the seat for ever.
  void close();

 private:
  bool try_take() noexcept { return !is_taken_.exchange(true); }
  bool take_if_soon_free(const std::function<bool()>& is_enough);
  void call();
  void nap();
  void stand_by();

  Drivable& work_;
  const OwnerProcess owner_;
  std::atomic<bool> is_taken_{false};
  std::atomic<int> wanted_{0};
  /// Times that waiting threads have taken the seat.
  std::atomic<std::uint64_t> drives_{0};
  std::uint64_t drives_seen_ = 0;  ///< by the session's thread
  std::atomic<bool> is_called_{false};
  std::atomic<bool> is_napping_{false};
  std::atomic<bool> is_standing_by_{false};
  // What the session's thread waits for while it is not in the seat; guards nothing but the wait.
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace scalecom
