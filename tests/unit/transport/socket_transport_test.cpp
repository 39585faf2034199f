#include "transport/socket/socket_transport.hpp"

#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "collective/message_collectives.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

using Bytes = std::vector<std::byte>;
using Mesh = std::vector<std::unique_ptr<Transport>>;

// Transports of ranks that are all connected with each other, by rank.
Mesh make_mesh(int size, std::size_t early_bytes_max = std::size_t{1} << 30) {
  std::vector<std::map<int, Socket>> peers(static_cast<std::size_t>(size));
  for (int a = 0; a < size; ++a) {
    for (int b = a + 1; b < size; ++b) {
      std::array<int, 2> ends{};
      REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
      peers[static_cast<std::size_t>(a)].emplace(b, Socket(ends[0]));
      peers[static_cast<std::size_t>(b)].emplace(a, Socket(ends[1]));
    }
  }
  Mesh mesh;
  for (int rank = 0; rank < size; ++rank) {
    mesh.push_back(
        make_socket_transport(rank, size, std::move(peers[mesh.size()]), early_bytes_max));
  }
  return mesh;
}

WaitContext patience(std::chrono::milliseconds limit = std::chrono::seconds(20)) {
  return {Deadline::after(limit), nullptr};
}

// On both sides of what a socket takes at once.
constexpr std::array<std::size_t, 6> kSizes{0, 1, 7, 4096, 300'000, 3'000'000};

Bytes message_of(int from, int to, std::size_t index) {
  Bytes bytes(kSizes[index % kSizes.size()]);
  auto state = static_cast<std::uint32_t>(from * 1009 + to * 31) +
               static_cast<std::uint32_t>(index) * 7919u + 1u;
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

std::optional<Error> error_of_wait(Transport& transport, TransportRequest request) {
  try {
    wait(transport, request, patience(), "a test");
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

}  // namespace

TEST_CASE("messages of all sizes to all ranks, itself included, arrive whole and in order") {
  constexpr int kRanks = 3;
  constexpr std::size_t kMessages = 12;
  Mesh mesh = make_mesh(kRanks);
  std::vector<std::vector<Bytes>> received(kRanks);
  std::vector<TransportCounters> counters(kRanks);
  test::run_ranks(kRanks, [&](int rank) {
    Transport& transport = *mesh[static_cast<std::size_t>(rank)];
    std::vector<Bytes> sent;
    auto& mine = received[static_cast<std::size_t>(rank)];
    for (int peer = 0; peer < kRanks; ++peer) {
      for (std::size_t i = 0; i < kMessages; ++i) {
        sent.push_back(message_of(rank, peer, i));
        mine.emplace_back(kSizes[i % kSizes.size()]);
      }
    }
    std::vector<TransportRequest> requests;
    for (std::size_t i = 0; i < sent.size(); ++i) {
      const int peer = static_cast<int>(i / kMessages);
      requests.push_back(transport.post_send(sent[i], peer, 32'767));
      requests.push_back(transport.post_receive(mine[i], peer, 32'767));
    }
    wait_all(transport, requests, patience(), "a test");
    counters[static_cast<std::size_t>(rank)] = transport.counters();
  });
  const std::size_t bytes = 2 * std::accumulate(kSizes.begin(), kSizes.end(), std::size_t{0});
  for (int rank = 0; rank < kRanks; ++rank) {
    for (std::size_t i = 0; i < kRanks * kMessages; ++i) {
      const int from = static_cast<int>(i / kMessages);
      REQUIRE(received[static_cast<std::size_t>(rank)][i] == message_of(from, rank, i % kMessages));
    }
    CHECK(counters[static_cast<std::size_t>(rank)].messages_sent == kRanks * kMessages);
    CHECK(counters[static_cast<std::size_t>(rank)].bytes_sent ==
          static_cast<std::int64_t>(kRanks * bytes));
  }
}

TEST_CASE("a receive takes the message of its tag, also one that came before it was posted") {
  Mesh mesh = make_mesh(2);
  Bytes early = message_of(0, 1, 4);
  Bytes later = message_of(0, 1, 3);
  Bytes got_early(early.size());
  Bytes got_later(later.size());
  bool is_here_already = false;
  test::run_ranks(2, [&](int rank) {
    Transport& transport = *mesh[static_cast<std::size_t>(rank)];
    if (rank == 0) {
      std::array requests{transport.post_send(early, 1, 5), transport.post_send(later, 1, 6)};
      wait_all(transport, requests, patience(), "a test");
      return;
    }
    TransportRequest second = transport.post_receive(got_later, 0, 6);
    wait(transport, second, patience(), "a test");
    TransportRequest first = transport.post_receive(got_early, 0, 5);
    is_here_already = transport.test(first);
  });
  CHECK(is_here_already);
  CHECK(got_early == early);
  CHECK(got_later == later);
}

TEST_CASE("a sender waits when too much that nobody has asked for has come, and nothing is lost") {
  constexpr std::size_t kMessages = 12;
  Mesh mesh = make_mesh(2, 1 << 20);
  std::vector<Bytes> sent;
  std::vector<TransportRequest> sends;
  std::vector<Bytes> received;
  for (std::size_t i = 0; i < kMessages; ++i) {
    sent.push_back(message_of(0, 1, i));
    received.emplace_back(sent[i].size());
  }
  for (const Bytes& message : sent) sends.push_back(mesh[0]->post_send(message, 1, 5));
  Bytes other(1);
  TransportRequest unrelated = mesh[1]->post_receive(other, 0, 6);
  for (int i = 0; i < 1000; ++i) {
    REQUIRE(!mesh[1]->test(unrelated));
    mesh[0]->test(sends.back());
  }
  CHECK(!sends.back().is_null());
  Bytes last(1, std::byte{7});
  TransportRequest last_send = mesh[0]->post_send(last, 1, 6);
  const Deadline deadline = patience().deadline;
  const auto finish = [&](TransportRequest& receive) {
    while (!mesh[1]->test(receive) && !deadline.has_passed()) mesh[0]->test(last_send);
    return receive.is_null();
  };
  for (std::size_t i = 0; i < kMessages; ++i) {
    TransportRequest receive = mesh[1]->post_receive(received[i], 0, 5);
    REQUIRE(finish(receive));
  }
  REQUIRE(finish(unrelated));
  CHECK(received == sent);
  CHECK(other == last);
}

TEST_CASE("what was asked for after it came makes room for as much again") {
  constexpr int kRounds = 4;
  const Bytes early(900'000, std::byte{5});
  Mesh mesh = make_mesh(2, 1'000'000);
  const Bytes word(1);
  for (int round = 0; round < kRounds; ++round) {
    TransportRequest early_send = mesh[0]->post_send(early, 1, 5);
    TransportRequest word_send = mesh[0]->post_send(word, 1, 6);
    Bytes behind(1);
    TransportRequest receive = mesh[1]->post_receive(behind, 0, 6);
    const Deadline deadline = patience(std::chrono::seconds(5)).deadline;
    while (!mesh[1]->test(receive) && !deadline.has_passed()) mesh[0]->test(word_send);
    REQUIRE(receive.is_null());
    Bytes received(early.size());
    TransportRequest late = mesh[1]->post_receive(received, 0, 5);
    CHECK(mesh[1]->test(late));
    CHECK(mesh[0]->test(early_send));
    CHECK(received == early);
  }
}

TEST_CASE("two ranks that send each other more than the sockets hold do not hang") {
  Mesh mesh = make_mesh(2);
  std::vector<Bytes> received(2, Bytes(16 << 20));
  test::run_ranks(2, [&](int rank) {
    Transport& transport = *mesh[static_cast<std::size_t>(rank)];
    Bytes mine(16 << 20, static_cast<std::byte>(rank + 1));
    TransportRequest send = transport.post_send(mine, 1 - rank, 0);
    wait(transport, send, patience(), "a test");  // Nobody has posted a receive.
    TransportRequest receive =
        transport.post_receive(received[static_cast<std::size_t>(rank)], 1 - rank, 0);
    wait(transport, receive, patience(), "a test");
  });
  CHECK(received[0] == Bytes(16 << 20, std::byte{2}));
  CHECK(received[1] == Bytes(16 << 20, std::byte{1}));
}

TEST_CASE("collectives run over it") {
  constexpr int kRanks = 4;
  Mesh mesh = make_mesh(kRanks);
  std::vector<std::vector<float>> values(kRanks);
  test::run_ranks(kRanks, [&](int rank) {
    auto& mine = values[static_cast<std::size_t>(rank)];
    mine.assign(500'000, static_cast<float>(rank + 1));
    MessageCollectives collectives(*mesh[static_cast<std::size_t>(rank)], "ring");
    const WaitContext context = patience();
    collectives.all_reduce(std::as_writable_bytes(std::span(mine)), DataType::float32,
                           ReduceOp::sum, context);
  });
  for (const auto& of_rank : values) CHECK(of_rank == std::vector<float>(500'000, 10.0f));
}

TEST_CASE("a message of another size than its receive is an error that names the sender") {
  Mesh mesh = make_mesh(2);
  Bytes message(10);
  Bytes space(11);
  const bool is_early = GENERATE(true, false);
  CHECK(mesh[0]->post_send(message, 1, 0).id != 0);
  const auto receive = [&] {
    if (is_early) {  // It is read while another tag is asked for.
      Bytes other(1);
      TransportRequest request = mesh[1]->post_receive(other, 0, 1);
      mesh[1]->test(request);
    }
    TransportRequest request = mesh[1]->post_receive(space, 0, 0);
    mesh[1]->test(request);
  };
  CHECK_THROWS_WITH(receive(), "rank 0 sent 10 bytes, 11 were expected");
}

TEST_CASE("what a rank sent before it ended arrives; what it did not send is reported as lost") {
  Mesh mesh = make_mesh(2);
  Bytes message = message_of(1, 0, 3);
  CHECK(mesh[1]->post_send(message, 0, 0).id != 0);
  mesh[1].reset();
  Bytes received(message.size());
  Bytes missed(1);
  TransportRequest last = mesh[0]->post_receive(received, 1, 0);
  wait(*mesh[0], last, patience(), "a test");
  CHECK(received == message);
  const auto begin = Clock::now();
  const auto error = error_of_wait(*mesh[0], mesh[0]->post_receive(missed, 1, 0));
  REQUIRE(error);
  CHECK(error->code() == StatusCode::rank_lost);
  CHECK_THAT(error->what(),
             Contains("rank 1 is lost: connection closed; look at the lost rank's own "
                      "output and exit code"));
  // The control plane, which knows who was lost first, is to have its say before.
  CHECK(Clock::now() - begin > kNewsTime / 2);
  const auto sending = error_of_wait(*mesh[0], mesh[0]->post_send(message, 1, 0));
  REQUIRE(sending);
  CHECK(sending->code() == StatusCode::rank_lost);
}

TEST_CASE("a rank that gave up touches no memory any more, and its peers see it gone") {
  Mesh mesh = make_mesh(2);
  Bytes received(100, std::byte{7});
  CHECK(mesh[0]->post_receive(received, 1, 0).id != 0);
  mesh[0]->cancel_all();
  CHECK_THROWS_WITH(mesh[0]->post_send(received, 1, 0), Contains("cancelled"));
  const auto error = error_of_wait(*mesh[1], mesh[1]->post_send(Bytes(100), 0, 0));
  REQUIRE(error);
  CHECK(error->code() == StatusCode::rank_lost);
  CHECK(received == Bytes(100, std::byte{7}));
}

TEST_CASE("a lack of descriptors for it is an error that says so, and what helps") {
  std::array<int, 2> ends{};
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
  std::map<int, Socket> peers;
  peers.emplace(1, Socket(ends[0]));
  const Socket other(ends[1]);
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{0, before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  std::string message;
  try {
    make_socket_transport(0, 2, std::move(peers));
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_NOFILE, &before);
  CHECK_THAT(message, Contains("epoll_create1") && Contains("ulimit -n"));
}
