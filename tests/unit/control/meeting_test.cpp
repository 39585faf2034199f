#include "runtime/control/meeting.hpp"

#include <sys/socket.h>

#include <array>

#include "runtime/control/frames.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

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
