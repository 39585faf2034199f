// A meeting that is called off while ranks are missing.

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "runtime/control/frames.hpp"
#include "runtime/control/reception.hpp"
#include "runtime/control/rendezvous.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

constexpr Bootstrap::Limit kLong{60.0};

Rendezvous rank_of_three(int rank) {
  Rendezvous rendezvous;
  rendezvous.rank = rank;
  rendezvous.size = 3;
  rendezvous.job = fmt::format("test of calling off {}", getpid());
  rendezvous.host = "localhost";
  return rendezvous;
}

Handshake handshake_of(const Rendezvous& rendezvous) {
  return {derive_key(rendezvous.secret, "scalecom rendezvous " + rendezvous.job), 0};
}

// Calls off what it is asked about some times once it is armed: rank 0 has let in then who has
// come.
class LateCallOff final : public Interrupt {
 public:
  void arm() { is_armed_ = true; }
  void check() override {
    if (is_armed_ && ++asked_ > 5) throw Error(StatusCode::shut_down, "called off");
  }

 private:
  std::atomic<bool> is_armed_{false};
  int asked_ = 0;
};

// Nothing where the ranks meet.
std::optional<Error> meet_until(const Rendezvous& rendezvous, std::stop_token called_off) {
  CallOff interrupt(std::move(called_off));
  try {
    meet(rendezvous, kLong, &interrupt);
  } catch (const Error& error) {
    return error;
  }
  return {};
}

void check_called_off(const std::optional<Error>& error, TimePoint begin) {
  REQUIRE(error);
  CHECK(error->code() == StatusCode::shut_down);
  CHECK_THAT(error->what(), Catch::Contains("init() was called off"));
  CHECK(Clock::now() - begin < kLong / 4);
}

}  // namespace

TEST_CASE("a rank that nobody answers, or nobody comes to, leaves when it is called off") {
  const int rank = GENERATE(0, 1);
  std::stop_source source;
  source.request_stop();
  const TimePoint begin = Clock::now();
  check_called_off(meet_until(rank_of_three(rank), source.get_token()), begin);
}

TEST_CASE("a rank that waits with rank 0 for a third leaves when it is called off") {
  const Rendezvous guest = rank_of_three(1);
  std::vector<Socket> listeners;
  listeners.push_back(listen_unix(meeting_name(guest.job)));
  Reception reception(listeners, handshake_of(guest), 16);
  std::stop_source source;
  std::optional<Error> error;
  std::thread other([&] { error = meet_until(guest, source.get_token()); });
  std::vector<Reception::Arrival> arrivals;
  const Deadline deadline = Deadline::after(kLong);
  while (arrivals.empty() && !deadline.has_passed()) arrivals = reception.wait();
  const TimePoint begin = Clock::now();
  source.request_stop();
  other.join();
  REQUIRE(arrivals.size() == 1);
  CHECK(arrivals.front().hello == "3");
  check_called_off(error, begin);
}

TEST_CASE("a rank 0 that is called off ends nobody else's wait: it may come again") {
  const Rendezvous root = rank_of_three(0);
  LateCallOff interrupt;
  bool was_called_off = false;
  std::thread host([&] {
    try {
      meet(root, kLong, &interrupt);
    } catch (const Error& error) {
      was_called_off = error.code() == StatusCode::shut_down;
    }
  });
  const Deadline deadline = Deadline::after(kLong);
  Socket guest;
  while (!guest.is_open() && !deadline.has_passed()) guest = connect_unix(meeting_name(root.job));
  const bool is_in = introduce_to_parent(guest, handshake_of(root), 1, deadline) &&
                     send_frame(guest, "3", deadline);
  interrupt.arm();
  host.join();
  CHECK(is_in);
  CHECK(was_called_off);
  CHECK_FALSE(receive_frame(guest, deadline));
}
