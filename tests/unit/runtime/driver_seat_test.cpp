#include "runtime/driver_seat.hpp"

#include <atomic>
#include <thread>
#include <vector>

#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace std::chrono_literals;

namespace {

// Counts whoever is in the seat at once; a drive lasts until it is enough, the deadline, or
// leave().
class Work final : public Drivable {
 public:
  void drive(const std::function<bool()>& is_enough, Deadline deadline) override {
    enter();
    ++drives;
    while (!is_enough() && !must_leave && !deadline.has_passed()) std::this_thread::yield();
    exit();
  }
  bool needs_session_thread() const override { return leaves_work; }
  void wake_session_thread() override { ++wake_ups; }
  bool has_news() const noexcept override { return news; }

  void enter() {
    if (in_seat.fetch_add(1) != 0) was_shared = true;
  }
  void exit() { in_seat.fetch_sub(1); }

  std::atomic<int> in_seat{0};
  std::atomic<bool> was_shared{false};
  std::atomic<int> drives{0};
  std::atomic<int> wake_ups{0};
  std::atomic<bool> must_leave{false};
  std::atomic<bool> leaves_work{false};
  std::atomic<bool> news{false};
};

const auto kNever = [] { return false; };
Deadline soon() { return Deadline::after(10s); }

// The session's thread: takes the seat again and again, and makes way as the coordinator does.
void keep_taking(DriverSeat& seat, Work& work, const std::atomic<bool>& is_over) {
  while (!is_over) {
    seat.take();
    work.enter();
    for (int i = 0; i < 100 && !seat.is_wanted() && !is_over; ++i) std::this_thread::yield();
    work.exit();
    seat.give();
  }
  seat.close();
}

}  // namespace

TEST_CASE("a waiting thread drives by itself, until it is enough or its deadline") {
  Work work;
  DriverSeat seat(work);
  int looks = 0;
  seat.drive_until([&] { return ++looks > 5; }, soon());
  CHECK(work.drives == 1);
  seat.drive_until(kNever, Deadline::after(1ms));
  CHECK(work.drives == 2);
  CHECK(work.wake_ups == 0);
}

TEST_CASE("who leaves work behind wakes the session's thread, before it can sleep on") {
  Work work;
  work.leaves_work = true;
  DriverSeat seat(work);
  seat.drive_until([] { return true; }, soon());
  CHECK(work.wake_ups == 1);
  CHECK(seat.is_called());
  seat.take();
  CHECK_FALSE(seat.is_called());
  seat.give();
}

TEST_CASE("the session's thread looks in soon after the last drive, also where news came") {
  Work work;
  DriverSeat seat(work);
  seat.drive_until([] { return true; }, soon());
  seat.take();  // Returns after a nap.
  seat.give();
  work.news = true;
  seat.drive_until([] { return true; }, soon());
  seat.take();
  seat.give();
  CHECK(work.drives == 2);
}

TEST_CASE("a thread that finds the seat taken for long gives up and goes to sleep elsewhere") {
  Work work;
  DriverSeat seat(work);
  seat.take();
  seat.drive_until(kNever, soon());
  CHECK(work.drives == 0);
  seat.give();
}

TEST_CASE("many waiting threads and the session's share the seat one after the other") {
  Work work;
  work.leaves_work = true;
  DriverSeat seat(work);
  std::atomic<bool> is_over{false};
  std::jthread session([&] { keep_taking(seat, work, is_over); });
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 3; ++thread) {
      threads.emplace_back([&] {
        for (int i = 0; i < 2'000; ++i) {
          int looks = 0;
          seat.drive_until([&] { return ++looks > 3; }, soon());
        }
      });
    }
  }
  is_over = true;
  session.join();
  CHECK_FALSE(work.was_shared);
  CHECK(work.drives > 0);
}

TEST_CASE("the end of a session waits for who drives, and nobody drives after it") {
  Work work;
  DriverSeat seat(work);
  std::jthread waiting([&] { seat.drive_until(kNever, soon()); });
  while (work.in_seat == 0) std::this_thread::yield();
  std::atomic<bool> is_closed{false};
  std::jthread session([&] {
    seat.close();
    is_closed = true;
  });
  CHECK_FALSE(is_closed);
  work.must_leave = true;
  session.join();
  CHECK(work.in_seat == 0);
  seat.drive_until(kNever, soon());
  CHECK(work.drives == 1);
}
