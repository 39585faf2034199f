#include "transport/loopback/loopback_transport.hpp"

#include <array>

#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

std::span<std::byte> bytes_of(std::vector<int>& values) {
  return std::as_writable_bytes(std::span(values));
}

WaitContext patience(std::chrono::milliseconds limit = std::chrono::seconds(20)) {
  return {Deadline::after(limit), nullptr};
}

class Interrupted final : public Interrupt {
 public:
  void check() override { throw Error(StatusCode::rank_lost, "rank 7 died elsewhere"); }
};

}  // namespace

TEST_CASE("messages of one pair and tag arrive in the order of posting, tags apart") {
  LoopbackWorld world(2);
  std::vector<int> received(3);
  test::run_ranks(2, [&](int rank) {
    const auto transport = world.make_transport(rank);
    std::vector<std::vector<int>> messages{{1}, {2}, {3}};
    std::array<TransportRequest, 3> requests;
    const std::array tags{5, 6, 5};
    for (std::size_t i = 0; i < 3; ++i) {
      requests[i] = rank == 0 ? transport->post_send(bytes_of(messages[i]), 1, tags[i])
                              : transport->post_receive(
                                    std::as_writable_bytes(std::span(received).subspan(i, 1)), 0,
                                    std::array{5, 5, 6}[i]);
    }
    wait_all(*transport, requests, patience(), "test");
  });
  CHECK(received == std::vector<int>{1, 3, 2});
}

TEST_CASE("a rank may send to itself, and what it sent is counted") {
  LoopbackWorld world(1);
  const auto transport = world.make_transport(0);
  std::vector<int> from{1, 2, 3};
  std::vector<int> to(3);
  std::array requests{transport->post_send(bytes_of(from), 0, 0),
                      transport->post_receive(bytes_of(to), 0, 0)};
  wait_all(*transport, requests, patience(), "test");
  CHECK(to == from);
  CHECK(transport->counters().bytes_sent == 12);
  CHECK(transport->counters().messages_sent == 1);
}

TEST_CASE("a wait ends at its deadline and names the work") {
  LoopbackWorld world(2);
  const auto transport = world.make_transport(0);
  std::vector<int> values(1);
  TransportRequest request = transport->post_receive(bytes_of(values), 1, 0);
  CHECK_THROWS_WITH(
      wait(*transport, request, patience(std::chrono::milliseconds(10)), "ring all-reduce"),
      Contains("ring all-reduce") && Contains("deadline"));
}

TEST_CASE("an interrupt ends a wait with its own error") {
  LoopbackWorld world(2);
  const auto transport = world.make_transport(0);
  std::vector<int> values(1);
  TransportRequest request = transport->post_receive(bytes_of(values), 1, 0);
  Interrupted interrupt;
  CHECK_THROWS_WITH(
      wait(*transport, request, {Deadline::after(std::chrono::seconds(20)), &interrupt}, "test"),
      "rank 7 died elsewhere");
}

TEST_CASE("a lost rank fails pending and later requests with its number") {
  LoopbackWorld world(2);
  const auto transport = world.make_transport(0);
  std::vector<int> values(1);
  TransportRequest pending = transport->post_receive(bytes_of(values), 1, 0);
  world.lose(1);
  CHECK_THROWS_WITH(wait(*transport, pending, patience(), "test"), Contains("rank 1"));
  TransportRequest later = transport->post_send(bytes_of(values), 1, 0);
  CHECK_THROWS_WITH(wait(*transport, later, patience(), "test"), Contains("rank 1"));
}

TEST_CASE("after cancel_all nothing is written and posts are refused") {
  LoopbackWorld world(2);
  const auto receiver = world.make_transport(0);
  const auto sender = world.make_transport(1);
  std::vector<int> values{7};
  std::vector<int> sent{9};
  receiver->post_receive(bytes_of(values), 1, 0);
  receiver->cancel_all();
  sender->post_send(bytes_of(sent), 0, 0);
  CHECK(values[0] == 7);
  CHECK_THROWS_AS(receiver->post_receive(bytes_of(values), 1, 0), Error);
}
