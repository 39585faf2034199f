#include <poll.h>
#include <sys/socket.h>

#include <thread>

#include "runtime/control/loopback_channel.hpp"
#include "runtime/control/peer_connection.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

struct Pair {
  Pair() {
    int descriptors[2];
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, descriptors);
    near = PeerConnection(Socket(descriptors[0]));
    far = PeerConnection(Socket(descriptors[1]));
  }
  PeerConnection near{Socket()};
  PeerConnection far{Socket()};
};

void send_raw(const PeerConnection& connection, std::string_view bytes) {
  REQUIRE(send(connection.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(bytes.size()));
}

}  // namespace

TEST_CASE("frames arrive whole and in order, empty ones too, however the bytes are cut") {
  Pair pair;
  pair.near.send("first");
  pair.near.send("");
  CHECK(pair.far.receive().messages == std::vector<std::string>{"first", ""});
  const std::string frame(
      "\x03\x00\x00\x00"
      "abc",
      7);
  for (std::size_t cut = 0; cut < frame.size(); ++cut) {
    send_raw(pair.near, frame.substr(0, cut));
    CHECK(pair.far.receive().messages.empty());
    send_raw(pair.near, frame.substr(cut));
    CHECK(pair.far.receive().messages == std::vector<std::string>{"abc"});
  }
}

TEST_CASE("what the socket does not take is kept and sent later") {
  Pair pair;
  const std::string message(4 << 20, 'x');
  pair.near.send(message);
  CHECK(pair.near.has_backlog());
  std::vector<std::string> received;
  while (received.empty()) {
    received = pair.far.receive().messages;
    pair.near.flush();
  }
  CHECK(received[0] == message);
  CHECK_FALSE(pair.near.has_backlog());
}

TEST_CASE("a goodbye, a closed connection and a broken frame each end with their cause") {
  Pair goodbye;
  goodbye.near.send("last");
  goodbye.near.send_goodbye();
  auto received = goodbye.far.receive();
  CHECK(received.messages == std::vector<std::string>{"last"});
  CHECK(received.end == "it left the session");

  Pair closed;
  closed.near.send("last");
  closed.near.close();
  received = closed.far.receive();
  CHECK(received.messages == std::vector<std::string>{"last"});
  if (!received.end) received = closed.far.receive();
  CHECK(received.end == "connection closed");

  Pair broken;
  send_raw(broken.near, "\xff\xff\xff\x7f rest");
  CHECK_THAT(broken.far.receive().end.value(), Contains("2147483647 bytes"));
}

TEST_CASE("what a peer that is gone cannot take is dropped, and its last words are still read") {
  Pair pair;
  pair.near.send("last words");
  pair.near.close();
  // Kept, it would hold up the orderly end until its time is over.
  pair.far.send("to nobody");
  pair.far.send_goodbye();
  CHECK_FALSE(pair.far.has_backlog());
  auto received = pair.far.receive();
  CHECK(received.messages == std::vector<std::string>{"last words"});
  if (!received.end) received = pair.far.receive();
  CHECK_THAT(received.end.value(), Contains("connection closed"));

  Pair waiting;
  waiting.near.send(std::string(4 << 20, 'x'));
  REQUIRE(waiting.near.has_backlog());
  waiting.far.close();
  waiting.near.flush();
  CHECK_FALSE(waiting.near.has_backlog());
}

TEST_CASE("loopback channels carry messages in order and report a lost neighbour once, last") {
  LoopbackControlWorld world(3);
  const auto root = world.make_channel(0);
  const auto child = world.make_channel(1);
  const auto other = world.make_channel(2);
  child->send(0, "a");
  child->send(0, "b");
  world.lose(1);
  child->send(0, "from the dead");
  const auto events = root->poll();
  REQUIRE(events.size() == 3);
  CHECK(std::get<ControlReceived>(events[0]).message == "a");
  CHECK(std::get<ControlReceived>(events[1]).message == "b");
  CHECK(std::get<ControlPeerLost>(events[2]).peer == 1);
  CHECK(root->poll().empty());
  CHECK(other->poll().empty());  // no neighbour of rank 1
  CHECK(child->counters().messages_sent == 3);
}

TEST_CASE("a loopback channel's descriptor is readable exactly while something waits") {
  LoopbackControlWorld world(2);
  const auto root = world.make_channel(0);
  const auto child = world.make_channel(1);
  const auto is_readable = [&] {
    pollfd descriptor{root->descriptor(), POLLIN, 0};
    return ::poll(&descriptor, 1, 0) == 1;
  };
  CHECK_FALSE(is_readable());
  child->send(0, "a");
  child->send(0, "b");
  CHECK(is_readable());
  CHECK(root->poll().size() == 2);
  CHECK_FALSE(is_readable());
  world.lose(1);
  CHECK(is_readable());
  CHECK(root->poll().size() == 1);
  world.lose(1);
  CHECK_FALSE(is_readable());
}

TEST_CASE("loopback channels carry the messages of several threads, each sender's in order") {
  constexpr int kSenders = 4;
  constexpr int kMessages = 2000;
  LoopbackControlWorld world(kSenders + 1);
  const auto root = world.make_channel(0);
  std::vector<std::jthread> senders;
  for (int rank = 1; rank <= kSenders; ++rank) {
    senders.emplace_back([&world, rank] {
      const auto channel = world.make_channel(rank);
      for (int i = 0; i < kMessages; ++i) channel->send(0, std::to_string(i));
    });
  }
  std::vector<int> next(kSenders + 1, 0);
  int received = 0;
  bool is_ordered = true;
  while (received < kSenders * kMessages) {
    pollfd descriptor{root->descriptor(), POLLIN, 0};
    REQUIRE(::poll(&descriptor, 1, 10'000) == 1);
    for (const ControlEvent& event : root->poll()) {
      const auto& [from, message] = std::get<ControlReceived>(event);
      const auto sender = static_cast<std::size_t>(from);
      is_ordered = is_ordered && message == std::to_string(next[sender]++);
      ++received;
    }
  }
  CHECK(is_ordered);
}

TEST_CASE("a loopback neighbour that never reads is lost at the bound, and named once") {
  LoopbackControlWorld world(2);
  const auto root = world.make_channel(0);
  const auto child = world.make_channel(1);
  child->send(0, std::string(kControlBacklogMax, 'x'));
  CHECK(child->poll().empty());
  child->send(0, "x");
  child->send(0, "to nobody");
  const auto events = child->poll();
  REQUIRE(events.size() == 1);
  CHECK(std::get<ControlPeerLost>(events[0]).peer == 0);
  CHECK_THAT(std::get<ControlPeerLost>(events[0]).cause, Contains("does not read"));
  CHECK(root->poll().size() == 1);
}
