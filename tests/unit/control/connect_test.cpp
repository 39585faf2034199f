#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <barrier>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/control/handshake.hpp"
#include "runtime/control/host_segment.hpp"
#include "runtime/control/reception.hpp"
#include "runtime/control/socket_channel.hpp"
#include "runtime/control/tree.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ipv6.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/thread_bootstrap.hpp"
#include "transport/socket/sockets.hpp"

using namespace scalecom;
using Catch::Contains;
using scalecom::test::Exchange;
using scalecom::test::ThreadBootstrap;

namespace {

std::vector<HostFacts> facts_of(int size, bool is_one_host) {
  std::vector<HostFacts> facts;
  for (int rank = 0; rank < size; ++rank) {
    facts.push_back({"host",
                     is_one_host ? "one" : std::to_string(rank),
                     {"127.0.0." + std::to_string(rank + 1)}});
  }
  return facts;
}

std::vector<ControlEvent> poll_until(ControlChannel& channel, std::size_t count) {
  std::vector<ControlEvent> events;
  while (events.size() < count) {
    pollfd descriptor{channel.descriptor(), POLLIN, 0};
    if (::poll(&descriptor, 1, 10'000) != 1) throw std::runtime_error("nothing arrived in 10 s");
    for (auto& event : channel.poll()) events.push_back(std::move(event));
  }
  return events;
}

// Alone, and tells how long it would have waited.
class PatientBootstrap final : public Bootstrap {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  Limit limit{};

 private:
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit most) override {
    limit = most;
    return {mine};
  }
};

// Rank 1 of two, for which rank 0 has said this long ago.
class ToldBootstrap final : public Bootstrap {
 public:
  explicit ToldBootstrap(std::string root) : root_(std::move(root)) {}
  int rank() const noexcept override { return 1; }
  int size() const noexcept override { return 2; }

 private:
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit) override {
    return {root_, mine};
  }
  const std::string root_;
};

constexpr Bootstrap::Limit kLong{60.0};

using TcpPlaces = std::vector<std::pair<std::string, int>>;

// Rank 0 in the hands of the test: what it tells rank 1 of where it listens.
std::string endpoint_blob(const std::string& key, const std::string& unix_name,
                          const TcpPlaces& tcp = {}) {
  return nlohmann::json{
      {"key", std::vector<std::uint8_t>(key.begin(), key.end())}, {"unix", unix_name}, {"tcp", tcp}}
      .dump();
}

}  // namespace

TEST_CASE("ranks of one host over Unix sockets, of several over TCP, on a star and on a tree") {
  const bool is_one_host = GENERATE(true, false);
  const int size = GENERATE(1, 2, 5, 20);
  Exchange exchange(size);
  std::vector<std::string> heard(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, size);
    const ControlTree tree = ControlTree::make(rank, size);
    const auto channel = connect_control_channel(bootstrap, facts_of(size, is_one_host), {});
    // Down the tree comes the root's word; every rank passes it on.
    std::string word = "from the root";
    if (tree.parent >= 0) {
      const auto events = poll_until(*channel, 1);
      word = std::get<ControlReceived>(events[0]).message;
    }
    for (const int child : tree.children) channel->send(child, word);
    heard[static_cast<std::size_t>(rank)] = word;
    for (std::size_t left = tree.children.size(); left > 0;) left -= poll_until(*channel, 1).size();
    channel->close();
  });
  for (const std::string& word : heard) CHECK(word == "from the root");
}

TEST_CASE("a peer that goes away is reported once, after its last message") {
  Exchange exchange(2);
  std::vector<ControlEvent> events;
  test::run_ranks(2, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, 2);
    const auto channel = connect_control_channel(bootstrap, facts_of(2, true), {});
    if (rank == 1) {
      channel->send(0, "last words");
      return;
    }
    events = poll_until(*channel, 2);
  });
  REQUIRE(events.size() == 2);
  CHECK(std::get<ControlReceived>(events[0]).message == "last words");
  CHECK(std::get<ControlPeerLost>(events[1]).peer == 1);
}

TEST_CASE("a rank that never comes is named when the time is over") {
  Exchange exchange(3, kLong);
  std::string message;
  test::run_ranks(3, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, 3);
    if (rank == 2) {
      bootstrap.exchange(endpoint_blob("", ""), Bootstrap::Limit(60.0));
      return;
    }
    try {
      connect_control_channel(bootstrap, facts_of(3, true),
                              {.connect_timeout = std::chrono::milliseconds(300)});
    } catch (const Error& error) {
      if (rank == 0) message = error.what();
    }
  });
  // Rank 1 may be late, and named before it.
  CHECK_THAT(message, Contains("no control connection from rank") && Contains("2 in 0.3 s") &&
                          Contains("SCALECOM_CONNECT_TIMEOUT"));
}

TEST_CASE("strangers are dropped: silent, babbling, and with a wrong key; the job goes on") {
  Exchange exchange(2);
  std::vector<Socket> strangers;
  bool is_connected = false;
  test::run_ranks(2, [&](int rank) {
    const auto visit = [&](std::string blob) {
      if (rank != 1) return blob;
      const std::string name = nlohmann::json::parse(blob).at("unix");
      strangers.push_back(connect_unix(name));  // says nothing
      strangers.push_back(connect_unix(name));
      send_all(strangers.back(), std::string(500, 'x'), Deadline::after(std::chrono::seconds(1)));
      strangers.push_back(connect_unix(name));
      const Deadline deadline = Deadline::after(std::chrono::seconds(5));
      const std::string challenge = receive_exactly(strangers.back(), kChallengeBytes, deadline);
      send_all(strangers.back(), Handshake{std::string(32, 'k'), 0}.answer(challenge, 1), deadline);
      return blob;
    };
    ThreadBootstrap bootstrap(exchange, rank, 2, visit);
    const auto channel = connect_control_channel(bootstrap, facts_of(2, true), {});
    if (rank == 1) {
      channel->send(0, "hello");
      poll_until(*channel, 1);
    } else {
      is_connected = std::get<ControlReceived>(poll_until(*channel, 1)[0]).message == "hello";
      channel->send(1, "hello");
    }
  });
  CHECK(is_connected);
  // The one with the wrong key was shut out: its connection ends without a proof.
  CHECK(receive_exactly(strangers.back(), kProofBytes, Deadline::after(std::chrono::seconds(5)))
            .empty());
}

TEST_CASE("a parent that does not know the key is refused by its child") {
  const std::string name = fmt::format("scalecom-test-{}-forger", getpid());
  const Socket listener = listen_unix(name);
  std::string message;
  test::run_ranks(2, [&](int rank) {
    if (rank == 1) {
      ToldBootstrap bootstrap(endpoint_blob(std::string(kSessionKeyBytes, 'k'), name));
      try {
        connect_control_channel(bootstrap, facts_of(2, true),
                                {.connect_timeout = std::chrono::milliseconds(500)});
      } catch (const Error& error) {
        message = error.what();
      }
      return;
    }
    // The first time it gives a proof, of another key; when rank 1 comes again it is silent.
    pollfd first{listener.descriptor(), POLLIN, 0};
    if (::poll(&first, 1, 10'000) != 1) return;
    const Socket child(accept4(first.fd, nullptr, nullptr, SOCK_NONBLOCK));
    const std::string challenge(kChallengeBytes, 'c');
    const Deadline deadline = Deadline::after(std::chrono::seconds(10));
    send_all(child, challenge, deadline);
    const std::string answer = receive_exactly(child, kAnswerBytes, deadline);
    const Handshake forger{std::string(kSessionKeyBytes, 'f'), 0};
    if (!answer.empty()) send_all(child, forger.prove(challenge, answer), deadline);
  });
  CHECK_THAT(message, Contains("rank 0 did not prove to rank 1"));
}

TEST_CASE("the ranks of each host share one segment, and different hosts share nothing") {
  // Ranks 0, 1, 4 on host 0; 2, 3 on host 1; 5 alone.
  const std::vector<int> host_of{0, 0, 1, 1, 0, 2};
  const int size = static_cast<int>(host_of.size());
  Exchange exchange(size);
  std::vector<HostFacts> facts;
  for (const int host : host_of) {
    facts.push_back({"host" + std::to_string(host), std::to_string(host), {"127.0.0.1"}});
  }
  std::vector<HostSegment> shared(host_of.size());
  test::run_ranks(size, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, size);
    shared[static_cast<std::size_t>(rank)] = share_host_segment(bootstrap, facts, 4096, {});
  });
  for (std::size_t rank = 0; rank < shared.size(); ++rank) {
    REQUIRE(shared[rank].is_usable());
    shared[rank].segment.bytes()[rank] = std::byte{1};
  }
  for (std::size_t reader = 0; reader < shared.size(); ++reader) {
    for (std::size_t writer = 0; writer < shared.size(); ++writer) {
      const bool is_together = host_of[reader] == host_of[writer];
      CHECK(shared[reader].segment.bytes()[writer] == std::byte{is_together});
    }
  }
}

TEST_CASE("when a host cannot make its segment, no rank uses one, and all are told why") {
  const int size = 3;
  Exchange exchange(size);
  std::vector<HostSegment> shared(3);
  test::run_ranks(size, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, size);
    // What the lowest rank made is not what rank 2 was promised.
    shared[static_cast<std::size_t>(rank)] =
        share_host_segment(bootstrap, facts_of(size, true), rank == 2 ? 8192 : 4096, {});
  });
  for (const HostSegment& segment : shared) {
    CHECK_FALSE(segment.is_usable());
    CHECK_THAT(segment.problem, Contains("rank 2 on host") && Contains("8192"));
  }
}

TEST_CASE("a rank that cannot be reached for its host's segment leaves all without, none waiting") {
  const int size = 3;
  Exchange exchange(size, kLong);
  std::vector<HostSegment> shared(3);
  test::run_ranks(size, [&](int rank) {
    // Rank 2 looks for rank 0 where nobody listens.
    const auto mislead = [&](std::string blob) {
      auto json = nlohmann::json::parse(blob, nullptr, false);
      if (rank != 2 || json.is_discarded()) return blob;
      json["unix"] = "scalecom-test-nobody";
      return json.dump();
    };
    ThreadBootstrap bootstrap(exchange, rank, size, mislead);
    shared[static_cast<std::size_t>(rank)] = share_host_segment(
        bootstrap, facts_of(size, true), 4096, {.connect_timeout = std::chrono::milliseconds(300)});
  });
  for (const HostSegment& segment : shared) {
    CHECK_FALSE(segment.is_usable());
    CHECK_THAT(segment.problem,
               Contains("no control connection from rank") && Contains("2 in 0.3 s"));
  }
}

TEST_CASE("a rank on another network is named at once, and the others do not wait for its parent") {
  Exchange exchange(3);
  auto facts = facts_of(3, true);
  facts[1] = {"container", "other", {}};
  std::vector<std::string> messages(3);
  const auto begin = std::chrono::steady_clock::now();
  test::run_ranks(3, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, 3);
    try {
      connect_control_channel(bootstrap, facts, {});
    } catch (const Error& error) {
      messages[static_cast<std::size_t>(rank)] = error.what();
    }
  });
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
  CHECK_THAT(messages[0], Contains("no network to rank 1 on container") && Contains("none"));
  CHECK_THAT(messages[1], Contains("cannot connect to rank 0"));
  CHECK_THAT(messages[2], Contains("cannot connect to rank 0"));
}

TEST_CASE("a child that its parent drops comes again") {
  const std::string key(kSessionKeyBytes, 'k');
  const std::string name = fmt::format("scalecom-test-{}-again", getpid());
  Exchange exchange(2);
  std::vector<Socket> listeners;
  listeners.push_back(listen_unix(name));
  std::vector<Reception::Arrival> arrivals;
  test::run_ranks(2, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, 2);
    if (rank == 1) {
      connect_control_channel(bootstrap, facts_of(2, true), {});
      return;
    }
    bootstrap.exchange(endpoint_blob(key, name), Bootstrap::Limit(60.0));
    pollfd first{listeners[0].descriptor(), POLLIN, 0};
    if (::poll(&first, 1, 10'000) != 1) return;
    Socket(accept(first.fd, nullptr, nullptr));  // And drops it.
    Reception reception(listeners, Handshake{key, 0});
    const Deadline deadline = Deadline::after(std::chrono::seconds(10));
    while (arrivals.empty() && !deadline.has_passed()) arrivals = reception.wait();
  });
  REQUIRE(arrivals.size() == 1);
  CHECK(arrivals[0].rank == 1);
}

TEST_CASE("a parent whose queue stays full is tried for as long as it may take") {
  const bool is_one_host = GENERATE(true, false);
  const std::string name = fmt::format("scalecom-test-{}-full", getpid());
  constexpr std::chrono::milliseconds kTryTime{50};
  constexpr std::chrono::milliseconds kLimit{300};
  int port = 0;
  const Socket listener = is_one_host ? listen_unix(name) : listen_tcp("127.0.0.1", port);
  listen(listener.descriptor(), 0);
  std::vector<Socket> queue;
  do
    queue.push_back(is_one_host ? connect_unix(name)
                                : connect_tcp("127.0.0.1", port, Deadline::after(kTryTime)));
  while (queue.back().is_open());
  // That nobody is at another of its addresses says nothing of this one.
  int refused = 0;
  listen_tcp("127.0.0.1", refused);
  const TcpPlaces tcp =
      is_one_host ? TcpPlaces{} : TcpPlaces{{"127.0.0.1", port}, {"127.0.0.1", refused}};
  ToldBootstrap bootstrap(endpoint_blob("", is_one_host ? name : "", tcp));
  std::string message;
  const TimePoint begin = Clock::now();
  try {
    connect_control_channel(bootstrap, facts_of(2, is_one_host),
                            {.connect_timeout = kLimit, .peer_timeout = kTryTime});
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(Clock::now() - begin >= kLimit);
  CHECK_THAT(message, Contains("rank 1 cannot connect to rank 0") && Contains("very busy"));
  CHECK((message.find("firewall") == std::string::npos) == is_one_host);
}

TEST_CASE("where only IPv6 leads to a parent, the next one is asked by it first") {
  if (!test::has_ipv6()) return;
  const std::string key(kSessionKeyBytes, 'k');
  std::vector<std::vector<Socket>> listeners(2);
  std::vector<TcpPlaces> places(2);
  for (std::size_t parent : {0, 1}) {
    for (const char* address : {"127.0.0.1", "::1"}) {
      int port = 0;
      listeners[parent].push_back(listen_tcp(address, port));
      places[parent].emplace_back(address, port);
    }
  }
  const Socket closed = std::exchange(listeners[0][0], Socket());
  shutdown(closed.descriptor(), SHUT_RDWR);  // Nobody listens there, nor does another program.
  std::vector<int> visits(2);                // of rank 1's listeners
  std::size_t met = 0;
  Exchange exchange(3);
  test::run_ranks(3, [&](int rank) {
    ThreadBootstrap bootstrap(exchange, rank, 3);
    if (rank == 2) {
      met = connect_neighbours(bootstrap, Links::to_all(2, 3), facts_of(3, false), {}).size();
      return;
    }
    const auto place = static_cast<std::size_t>(rank);
    bootstrap.exchange(endpoint_blob(key, "", places[place]), Bootstrap::Limit(60.0));
    std::erase_if(listeners[place], [](const Socket& one) { return !one.is_open(); });
    pollfd visit{listeners[place].back().descriptor(), POLLIN, 0};
    if (::poll(&visit, 1, 10'000) != 1) return;
    if (rank == 1) {
      for (std::size_t i : {0, 1}) {
        pollfd at{listeners[1][i].descriptor(), POLLIN, 0};
        visits[i] = ::poll(&at, 1, 0);
      }
    }
    Reception reception(listeners[place], Handshake{key, rank});
    const Deadline deadline = Deadline::after(std::chrono::seconds(10));
    while (reception.wait().empty() && !deadline.has_passed()) {
    }
  });
  CHECK(met == 2);
  CHECK(visits == std::vector<int>{0, 1});
}

TEST_CASE(
    "a rank that is stopped in a step of connecting is waited for until half a limit behind it") {
  using std::chrono::hours;
  PatientBootstrap bootstrap;
  const Status mine(StatusCode::unavailable, "no");
  CHECK(first_failure(bootstrap, mine, Deadline::after(hours(-1)), hours(2)).message() == "no");
  CHECK(bootstrap.limit == hours(1));
  CHECK(first_failure(bootstrap, {}, Deadline::after(hours(2)), hours(2)).is_ok());
  CHECK(bootstrap.limit > hours(2));
  CHECK(bootstrap.limit <= hours(3));
}
