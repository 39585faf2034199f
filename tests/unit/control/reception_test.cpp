#include "runtime/control/reception.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/other_user.hpp"
#include "tests/support/ranks.hpp"

using namespace scalecom;
using scalecom::test::OtherUser;

namespace {

constexpr std::chrono::duration<double> kLong{20.0};
constexpr std::chrono::duration<double> kShort{0.5};

Deadline soon() { return Deadline::after(kLong); }

// Leaves this process so many descriptors that it can still open, while it lives.
class FewDescriptors {
 public:
  explicit FewDescriptors(int left) {
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before_) == 0);
    std::vector<Socket> probes;  // The lowest numbers that are free, as those to come.
    for (int i = 0; i <= left; ++i) probes.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
    rlimit few = before_;
    few.rlim_cur = static_cast<rlim_t>(probes.back().descriptor());
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
  }
  ~FewDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  rlimit before_{};
};

std::string unix_name_of(const std::string& test) {
  return fmt::format("scalecom-test-{}-{}", getpid(), test);
}

}  // namespace

TEST_CASE("more that come at once than are served push nobody out, and silent ones make room") {
  constexpr int kVisitors = 300;
  const bool are_some_silent = GENERATE(false, true);
  const std::string name = unix_name_of(are_some_silent ? "silent" : "visitors");
  std::vector<Socket> listeners;
  listeners.push_back(listen_unix(name));
  const Handshake handshake{std::string(kSessionKeyBytes, 'k'), 0};
  const int silent = are_some_silent ? 280 : 0;
  std::vector<int> arrived;
  int proved = 0;
  test::run_ranks(2, [&](int side) {
    if (side == 0) {
      Reception reception(listeners, handshake);
      for (const Deadline deadline = soon();
           static_cast<int>(arrived.size()) < kVisitors - silent && !deadline.has_passed();) {
        for (const Reception::Arrival& arrival : reception.wait()) arrived.push_back(arrival.rank);
      }
      return;
    }
    const TimePoint begin = Clock::now();
    const Deadline deadline = soon();
    std::vector<Socket> visitors;
    for (int i = 0; i < kVisitors; ++i) visitors.push_back(connect_unix(name));
    for (int i = silent; i < kVisitors; ++i) {
      Socket& visitor = visitors[static_cast<std::size_t>(i)];
      TimePoint came = begin;
      while (!introduce_to_parent(visitor, handshake, i, deadline)) {
        // Who was slow comes again, as ranks do; nobody is pushed out sooner.
        const TimePoint now = Clock::now();
        if (now - came < std::chrono::seconds(1) || deadline.has_passed()) return;
        came = now;
        visitor = connect_unix(name);
      }
      ++proved;
    }
  });
  CHECK(proved == kVisitors - silent);
  CHECK(static_cast<int>(arrived.size()) == kVisitors - silent);
}

TEST_CASE("those of one listener are served in turn with those of another") {
  int port = 0;
  std::vector<Socket> listeners;
  const std::string name = unix_name_of("turns");
  listeners.push_back(listen_unix(name));
  listeners.push_back(listen_tcp("127.0.0.1", port));
  std::vector<Socket> crowd;  // More than are served at a time.
  for (int i = 0; i < 300; ++i) crowd.push_back(connect_unix(name));
  const Socket other = connect_tcp("127.0.0.1", port, soon());
  Reception reception(listeners, {std::string(kSessionKeyBytes, 'k'), 0});
  reception.wait();
  CHECK_FALSE(receive_exactly(other, kChallengeBytes, Deadline::after(kShort)).empty());
}

TEST_CASE("a flood of one address, or of another user, leaves places to others") {
  const bool is_over_tcp = GENERATE(true, false);
  if (!is_over_tcp && geteuid() != 0) return;
  constexpr int kFlood = 256;  // As many as are served at a time.
  int port = 0;
  std::vector<Socket> listeners;
  listeners.push_back(listen_tcp("127.0.0.1", port));
  const std::string name = unix_name_of(is_over_tcp ? "address" : "user");
  listeners.push_back(listen_unix(name));
  std::vector<Socket> flood;
  const auto come = [&] {
    for (int i = 0; i < kFlood; ++i) {
      flood.push_back(is_over_tcp ? connect_tcp("127.0.0.1", port, soon()) : connect_unix(name));
    }
  };
  std::optional<OtherUser> other;
  if (is_over_tcp) come();
  if (!is_over_tcp) REQUIRE(other.emplace(come).is_ready());
  Reception reception(listeners, {std::string(kSessionKeyBytes, 'k'), 0});
  for (int turn = 0; turn < kFlood; ++turn) reception.wait();
  const Socket own = connect_unix(name);
  reception.wait();
  CHECK_FALSE(receive_exactly(own, kChallengeBytes, Deadline::after(kShort)).empty());
}

TEST_CASE("in the crowd of one address who is silent makes room, long before others have to") {
  constexpr int kCrowd = 128;  // Half of the places.
  int port = 0;
  std::vector<Socket> listeners;
  const std::string name = unix_name_of("crowd");
  listeners.push_back(listen_unix(name));
  listeners.push_back(listen_tcp("127.0.0.1", port));
  Reception reception(listeners, {std::string(kSessionKeyBytes, 'k'), 0});
  const Socket apart = connect_unix(name);
  reception.wait();
  std::vector<Socket> crowd;
  for (int i = 0; i < kCrowd; ++i) {
    crowd.push_back(connect_tcp("127.0.0.1", port, soon()));
    reception.wait();
  }
  bool is_let_in = false;
  for (const Deadline deadline = soon(); !is_let_in && !deadline.has_passed();) {
    const Socket next = connect_tcp("127.0.0.1", port, soon());
    reception.wait();
    is_let_in = !receive_exactly(next, kChallengeBytes, Deadline::after(kShort)).empty();
  }
  CHECK(is_let_in);
  CHECK_FALSE(is_hung_up(apart));
}

TEST_CASE("a lack of descriptors is none while nobody comes, and no lasting one") {
  std::vector<Socket> listeners;
  const std::string name = unix_name_of("descriptors");
  listeners.push_back(listen_unix(name));
  const Handshake handshake{std::string(kSessionKeyBytes, 'k'), 0};
  Reception reception(listeners, handshake);
  std::vector<Socket> visitors;
  for (int i = 0; i < 3; ++i) visitors.emplace_back();
  {
    const FewDescriptors none(0);
    CHECK_NOTHROW(reception.wait());
  }
  for (Socket& visitor : visitors) visitor = connect_unix(name);
  {
    const FewDescriptors one(1);
    for (int turn = 0; turn < 2; ++turn) reception.wait();
  }
  // The first has a place, the only one by now; then it leaves.
  const auto is_served = [](const Socket& visitor) {
    return !receive_exactly(visitor, kChallengeBytes, Deadline::after(kShort)).empty();
  };
  CHECK(is_served(visitors[0]));
  visitors[0] = Socket();
  for (int turn = 0; turn < 4; ++turn) reception.wait();
  CHECK(is_served(visitors[1]));
  CHECK(is_served(visitors[2]));
}

TEST_CASE("who has arrived is not lost where there is no descriptor for the next") {
  std::vector<Socket> listeners;
  const std::string name = unix_name_of("arrived");
  listeners.push_back(listen_unix(name));
  const Handshake handshake{std::string(kSessionKeyBytes, 'k'), 0};
  Reception reception(listeners, handshake);
  const Socket first = connect_unix(name);
  reception.wait();
  const std::string challenge = receive_exactly(first, kChallengeBytes, soon());
  REQUIRE(send_all(first, handshake.answer(challenge, 7), soon()));
  const Socket second = connect_unix(name);
  std::vector<Reception::Arrival> arrivals;
  {
    const FewDescriptors none(0);
    arrivals = reception.wait();
    CHECK_THROWS_AS(reception.wait(), Error);  // Not for even one.
  }
  REQUIRE(arrivals.size() == 1);
  CHECK(arrivals[0].rank == 7);
  reception.wait();
  CHECK_FALSE(receive_exactly(second, kChallengeBytes, Deadline::after(kShort)).empty());
}
