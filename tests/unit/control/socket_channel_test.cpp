// A channel of rank 0 whose only neighbour, rank 1, is a bare socket in the hands of the test: it
// proves that it knows the key, and then does what a broken or dying process would do.

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/control/handshake.hpp"
#include "runtime/control/socket_channel.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ipv6.hpp"
#include "transport/socket/sockets.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

enum class Medium { unix_socket, tcp };

Deadline soon() { return Deadline::after(std::chrono::seconds(10)); }

// Rank 1's half of the handshake, on a thread, from what rank 0 has published.
class BareChild {
 public:
  /// One that comes with other numbers before it comes with its own, the last.
  explicit BareChild(std::vector<int> ranks = {1}) : ranks_(std::move(ranks)) {}

  void join_from(const std::string& blob) {
    thread_ = std::jthread([this, blob] {
      const auto json = nlohmann::json::parse(blob);
      const auto bytes = json.at("key").get<std::vector<std::uint8_t>>();
      const std::string key(bytes.begin(), bytes.end());
      for (const int rank : ranks_) {
        Socket& socket = sockets_.emplace_back();
        socket = json.at("tcp").empty()
                     ? connect_unix(json.at("unix"))
                     : connect_tcp(json.at("tcp")[0][0], json.at("tcp")[0][1], soon());
        const std::string challenge = receive_exactly(socket, kChallengeBytes, soon());
        send_all(socket, Handshake{key, 0}.answer(challenge, rank), soon());
        receive_exactly(socket, kProofBytes, soon());
      }
    });
  }
  /// After the handshake.
  Socket& socket() {
    if (thread_.joinable()) thread_.join();
    return sockets_.back();
  }

 private:
  const std::vector<int> ranks_;
  std::vector<Socket> sockets_;
  std::jthread thread_;
};

std::vector<HostFacts> facts_of(Medium medium) {
  return {{"here", "one", {"127.0.0.1"}},
          {"there", medium == Medium::unix_socket ? "one" : "two", {"127.0.0.2"}}};
}

class BareBootstrap final : public Bootstrap {
 public:
  explicit BareBootstrap(BareChild& child) : child_(child) {}
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 2; }
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit) override {
    child_.join_from(mine);
    return {mine, mine};
  }

 private:
  BareChild& child_;
};

struct World {
  explicit World(Medium medium) {
    BareBootstrap bootstrap(child);
    channel = connect_control_channel(bootstrap, facts_of(medium), {});
    child.socket();
  }

  bool is_readable(int timeout_ms) const {
    pollfd descriptor{channel->descriptor(), POLLIN, 0};
    return ::poll(&descriptor, 1, timeout_ms) == 1;
  }

  std::vector<ControlEvent> poll_until(std::size_t count) {
    std::vector<ControlEvent> events;
    while (events.size() < count) {
      if (!is_readable(10'000)) throw std::runtime_error("nothing arrived in 10 s");
      for (auto& event : channel->poll()) events.push_back(std::move(event));
    }
    return events;
  }

  BareChild child;
  std::unique_ptr<ControlChannel> channel;
};

// Publishes nothing to anyone and keeps what rank 0 wants to be known.
class LonelyBootstrap final : public Bootstrap {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 2; }
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit) override {
    published_ = nlohmann::json::parse(mine);
    return {mine, mine};
  }
  const nlohmann::json& published() const { return published_; }

 private:
  nlohmann::json published_;
};

nlohmann::json published_with(const std::vector<HostFacts>& facts) {
  LonelyBootstrap bootstrap;
  CHECK_THROWS_WITH(
      connect_control_channel(bootstrap, facts, {.connect_timeout = std::chrono::milliseconds(50)}),
      Contains("rank 1"));
  return bootstrap.published();
}

// A process that was forked from this one, as a data loader's, and does nothing.
class ForkedProcess {
 public:
  ForkedProcess() : process_(fork()) {
    while (process_ == 0) pause();
  }
  ~ForkedProcess() {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }

 private:
  const pid_t process_;
};

std::string frame_of(const std::string& message) {
  return std::string{static_cast<char>(message.size()), '\0', '\0', '\0'} + message;
}

}  // namespace

TEST_CASE("a rank listens only where a child can come from") {
  const auto one_host = published_with(facts_of(Medium::unix_socket));
  CHECK(one_host.at("tcp").empty());
  CHECK_FALSE(one_host.at("unix").get<std::string>().empty());

  const auto two_hosts = published_with(facts_of(Medium::tcp));
  REQUIRE(two_hosts.at("tcp").size() == 1);
  CHECK(two_hosts.at("tcp")[0][0] == "127.0.0.1");
  CHECK(two_hosts.at("unix").get<std::string>().empty());

  // An address that both hosts have, as of a container bridge, leads from neither to the other.
  auto facts = facts_of(Medium::tcp);
  facts[0].addresses = facts[1].addresses = {"127.0.0.9"};
  CHECK(published_with(facts).at("tcp").empty());
}

TEST_CASE("a rank listens at an address of each family that its child has") {
  if (!test::has_ipv6()) return;
  auto facts = facts_of(Medium::tcp);
  facts[1].addresses = {"127.0.0.2", "::1"};
  const auto places = published_with(facts).at("tcp");
  REQUIRE(places.size() == 2);
  CHECK(places[0][0] == "127.0.0.1");
  CHECK(places[1][0] == "::1");
}

TEST_CASE("who knows the key and is none of a rank's children is not taken for one") {
  BareChild child({5, 0, -1, 1});
  BareBootstrap bootstrap(child);
  const Neighbours neighbours =
      connect_neighbours(bootstrap, Links::in_tree(0, 2), facts_of(Medium::unix_socket), {});
  CHECK(neighbours.size() == 1);
  CHECK(neighbours.contains(1));
}

TEST_CASE("a neighbour that dies without a goodbye is lost once, after its last message") {
  World world(GENERATE(Medium::unix_socket, Medium::tcp));
  send_all(world.child.socket(), frame_of("last words"), soon());
  world.child.socket() = Socket();
  const auto events = world.poll_until(2);
  REQUIRE(events.size() == 2);
  CHECK(std::get<ControlReceived>(events[0]).message == "last words");
  CHECK(std::get<ControlPeerLost>(events[1]).peer == 1);
  CHECK_THAT(std::get<ControlPeerLost>(events[1]).cause, Contains("connection closed"));
  // Once: nothing wakes the waiting thread any more, and messages to the lost are dropped.
  CHECK_FALSE(world.is_readable(0));
  CHECK(world.channel->poll().empty());
  world.channel->send(1, "to nobody");
  CHECK(world.channel->poll().empty());
}

TEST_CASE("a neighbour is lost once, also while a forked process has the connection too") {
  World world(Medium::unix_socket);
  const ForkedProcess forked;
  // More than the socket holds, so that the channel waits for room as well.
  world.channel->send(1, std::string(20u << 20, 'x'));
  shutdown(world.child.socket().descriptor(), SHUT_RDWR);
  const auto events = world.poll_until(1);
  REQUIRE(events.size() == 1);
  CHECK(std::get<ControlPeerLost>(events[0]).peer == 1);
  CHECK_FALSE(world.is_readable(0));
  CHECK(world.channel->poll().empty());
}

TEST_CASE("a neighbour that resets the connection is lost") {
  World world(Medium::tcp);
  const linger at_once{1, 0};
  REQUIRE(setsockopt(world.child.socket().descriptor(), SOL_SOCKET, SO_LINGER, &at_once,
                     sizeof at_once) == 0);
  world.child.socket() = Socket();
  const auto events = world.poll_until(1);
  REQUIRE(events.size() == 1);
  CHECK(std::get<ControlPeerLost>(events[0]).peer == 1);
  CHECK_FALSE(world.is_readable(0));
}

TEST_CASE("a neighbour that dies in the middle of a message is lost, and the half is dropped") {
  World world(Medium::unix_socket);
  send_all(world.child.socket(), frame_of("a whole message") + frame_of("cut").substr(0, 5),
           soon());
  world.child.socket() = Socket();
  const auto events = world.poll_until(2);
  REQUIRE(events.size() == 2);
  CHECK(std::get<ControlReceived>(events[0]).message == "a whole message");
  CHECK(std::holds_alternative<ControlPeerLost>(events[1]));
}

TEST_CASE("a message above the bound ends the connection and not the process") {
  World world(Medium::unix_socket);
  send_all(world.child.socket(), "\xfe\xff\xff\xff", soon());
  const auto events = world.poll_until(1);
  CHECK_THAT(std::get<ControlPeerLost>(events[0]).cause, Contains("4294967294 bytes"));
}

// A throw would meet the coordinator while it ends the session for another one.
TEST_CASE("a neighbour that never reads is lost at the bound, and nothing is thrown") {
  World world(Medium::unix_socket);
  const std::string message(32u << 20, 'x');
  for (std::size_t sent = 0; sent <= 2 * kControlBacklogMax; sent += message.size()) {
    world.channel->send(1, message);
  }
  const auto events = world.poll_until(1);
  REQUIRE(events.size() == 1);
  CHECK(std::get<ControlPeerLost>(events[0]).peer == 1);
  CHECK_THAT(std::get<ControlPeerLost>(events[0]).cause,
             Contains("does not read its control messages"));
}

TEST_CASE("a message that no frame holds breaks the connection off, and not the process") {
  World world(Medium::tcp);
  world.channel->send(1, std::string((64u << 20) + 1, 'x'));
  const auto events = world.poll_until(1);
  REQUIRE(events.size() == 1);
  CHECK_THAT(std::get<ControlPeerLost>(events[0]).cause, Contains("67108865 bytes"));
}

TEST_CASE("what waited for a slow neighbour goes out as soon as it reads") {
  World world(Medium::tcp);
  const std::string message(20u << 20, 'y');
  world.channel->send(1, message);
  // The channel's descriptor tells when more can go; poll() sends it.
  std::jthread sender([&] { world.poll_until(1); });
  const std::string received = receive_exactly(world.child.socket(), 4 + message.size(), soon());
  world.child.socket() = Socket();  // ends the sender's wait
  sender.join();
  CHECK(received == std::string("\x00\x00\x40\x01", 4) + message);
}

TEST_CASE("TCP connections send at once and give up a silent host within the time allowed") {
  int port = 0;
  const Socket listener = listen_tcp("127.0.0.1", port);
  const Socket socket = connect_tcp("127.0.0.1", port, soon());
  REQUIRE(socket.is_open());
  set_tcp_options(socket, std::chrono::seconds(8));
  const auto option = [&](int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    getsockopt(socket.descriptor(), level, name, &value, &length);
    return value;
  };
  CHECK(option(IPPROTO_TCP, TCP_NODELAY) != 0);
  CHECK(option(SOL_SOCKET, SO_KEEPALIVE) != 0);
  CHECK(option(IPPROTO_TCP, TCP_USER_TIMEOUT) == 8000);
  CHECK(option(IPPROTO_TCP, TCP_KEEPIDLE) +
            option(IPPROTO_TCP, TCP_KEEPINTVL) * option(IPPROTO_TCP, TCP_KEEPCNT) <=
        8);
}
