#include "runtime/control/meeting.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <future>

#include "runtime/control/frames.hpp"
#include "runtime/control/reception.hpp"
#include "runtime/control/rendezvous.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"

using namespace scalecom;
using Catch::Contains;

TEST_CASE("a rank takes from rank 0 a text of each rank, and no other number") {
  std::array<int, 2> ends{};
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
  const Socket root(ends[0]);
  const auto member = make_member_bootstrap(1, 3, Socket(ends[1]));
  const Bootstrap::Limit limit{10.0};
  REQUIRE(
      send_frame(root, to_reply(std::vector<std::string>{"a", "", "c"}), Deadline::after(limit)));
  CHECK(member->exchange("mine", limit) == std::vector<std::string>{"a", "", "c"});
  // As "all have come" is to a rank that is a step ahead.
  REQUIRE(send_frame(root, to_reply(std::vector<std::string>{}), Deadline::after(limit)));
  CHECK_THROWS_WITH(member->exchange("mine", limit), Contains("0 texts of 3 ranks"));
}

TEST_CASE("a rank that is started anew at once takes the place of the one that has just ended") {
  constexpr Bootstrap::Limit kLong{20.0};
  Rendezvous job;
  job.size = 3;
  job.job = "test of ranks anew " + std::to_string(getpid());
  job.host = "localhost";
  std::vector<std::size_t> met(3);
  std::promise<void> has_left;
  test::run_ranks(3, [&](int rank) {
    const Deadline deadline = Deadline::after(kLong);
    const Handshake handshake{derive_key("", "scalecom rendezvous " + job.job), 0};
    // Each closes before the next one comes, and rank 0 may learn of both at once.
    for (int come = 0; rank == 1 && come < 20 && !deadline.has_passed();) {
      const Socket socket = connect_unix(meeting_name(job.job));
      if (!socket.is_open()) continue;
      introduce_to_parent(socket, handshake, 1, deadline);
      send_frame(socket, "3", deadline);
      ++come;
    }
    if (rank == 1) has_left.set_value();
    if (rank == 2) has_left.get_future().wait_for(kLong);
    Rendezvous mine = job;
    mine.rank = rank;
    met[static_cast<std::size_t>(rank)] = meet(mine, kLong)->exchange("", kLong).size();
  });
  CHECK(met == std::vector<std::size_t>{3, 3, 3});
}
