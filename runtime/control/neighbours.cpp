#include "runtime/control/neighbours.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/error.hpp"
#include "runtime/control/handshake.hpp"

namespace scalecom {
namespace {

// How long a visitor may take to read a proof.
constexpr auto kProofTime = std::chrono::seconds(1);

// What a parent tells the others: where its children find it. Rank 0 adds the key.
struct Endpoint {
  std::string key;
  std::string unix_name;
  std::vector<std::pair<std::string, int>> tcp;  // address and port

  std::string to_blob() const {
    std::vector<std::uint8_t> bytes(key.begin(), key.end());
    return nlohmann::json{{"key", bytes}, {"unix", unix_name}, {"tcp", tcp}}.dump();
  }
  static Endpoint from_blob(const std::string& blob) {
    const auto json = nlohmann::json::parse(blob);
    const auto bytes = json.at("key").get<std::vector<std::uint8_t>>();
    return {std::string(bytes.begin(), bytes.end()), json.at("unix"), json.at("tcp")};
  }
};

std::string to_hex(const std::string& bytes) {
  std::string hex;
  for (const char byte : bytes) hex += fmt::format("{:02x}", static_cast<std::uint8_t>(byte));
  return hex;
}

bool is_same_host(const std::vector<HostFacts>& facts, int a, int b) {
  return facts[static_cast<std::size_t>(a)].host_id == facts[static_cast<std::size_t>(b)].host_id;
}

[[noreturn]] void fail_to_reach(const HostFacts& facts, int rank, int child) {
  const std::string addresses = fmt::format("{}", fmt::join(facts.addresses, ", "));
  throw Error(
      StatusCode::unavailable,
      fmt::format("rank {} has no network to rank {} on {} (its addresses: {}), which is on "
                  "another host or in a container with a network of its own; connect the "
                  "two, or run both in one network namespace",
                  rank, child, facts.host_name, addresses.empty() ? "none" : addresses));
}

// Opens what the children need and nothing else.
std::vector<Socket> listen_for_children(const ControlTree& tree,
                                        const std::vector<HostFacts>& facts, Endpoint& endpoint) {
  std::vector<Socket> listeners;
  std::set<std::string> addresses;
  const auto& mine = facts[static_cast<std::size_t>(tree.rank)].addresses;
  for (const int child : tree.children) {
    if (is_same_host(facts, tree.rank, child)) {
      if (!endpoint.unix_name.empty()) continue;
      endpoint.unix_name = "scalecom-" + to_hex(random_bytes(16));
      listeners.push_back(listen_unix(endpoint.unix_name));
      continue;
    }
    const HostFacts& theirs = facts[static_cast<std::size_t>(child)];
    bool is_reachable = false;
    for (const std::string& address : theirs.addresses) {
      // The same on both hosts, as a container bridge's is: it leads back to this one.
      if (std::find(mine.begin(), mine.end(), address) != mine.end()) continue;
      const std::string local = local_address_towards(address);
      if (local.empty()) continue;
      is_reachable = true;
      if (!addresses.insert(local).second) continue;
      int port = 0;
      listeners.push_back(listen_tcp(local, port));
      endpoint.tcp.emplace_back(local, port);
    }
    if (!is_reachable) fail_to_reach(theirs, tree.rank, child);
  }
  return listeners;
}

Socket connect_to(const Endpoint& parent, bool is_same_host, const ControlOptions& options,
                  Deadline deadline) {
  if (is_same_host) return connect_unix(parent.unix_name);
  for (const auto& [address, port] : parent.tcp) {
    Socket socket =
        connect_tcp(address, port,
                    std::min(deadline, Deadline::after(options.peer_timeout),
                             [](const Deadline& a, const Deadline& b) { return a.at() < b.at(); }));
    if (!socket.is_open()) continue;
    set_tcp_options(socket, options.peer_timeout);
    return socket;
  }
  return {};
}

Socket join_parent(const Endpoint& parent, const Handshake& handshake, int rank, bool is_same_host,
                   const ControlOptions& options, Deadline deadline) {
  Socket socket = connect_to(parent, is_same_host, options, deadline);
  if (!socket.is_open()) {
    throw Error(StatusCode::timed_out,
                fmt::format("rank {} cannot connect to rank {} for control messages; a firewall "
                            "may be in the way between the hosts",
                            rank, handshake.parent));
  }
  const std::string challenge = receive_exactly(socket, kChallengeBytes, deadline);
  const std::string answer = handshake.answer(challenge, rank);
  const bool is_sent = !challenge.empty() && send_all(socket, answer, deadline);
  const std::string proof = is_sent ? receive_exactly(socket, kProofBytes, deadline) : "";
  if (!handshake.is_proof(proof, challenge, answer)) {
    throw Error(StatusCode::timed_out,
                fmt::format("rank {} did not prove to rank {} that it belongs to this job in time; "
                            "SCALECOM_CONNECT_TIMEOUT sets the time",
                            handshake.parent, rank));
  }
  return socket;
}

// Accepts children and strangers alike; who answers the challenge wrongly, or not at all, is
// dropped without holding up the others.
class Reception {
 public:
  Reception(const std::vector<Socket>& listeners, const Handshake& handshake,
            const ControlOptions& options)
      : listeners_(listeners), handshake_(handshake), options_(options) {}

  void accept_all(std::set<int> missing, Neighbours& neighbours, Deadline deadline) {
    while (!missing.empty()) {
      if (deadline.has_passed()) {
        throw Error(
            StatusCode::timed_out,
            fmt::format("no control connection from rank {} in {:g} s; see that its process "
                        "is alive and its host reaches this one, or raise "
                        "SCALECOM_CONNECT_TIMEOUT",
                        fmt::join(missing, ", "), options_.connect_timeout.count()));
      }
      wait_for_news();
      for (const Socket& listener : listeners_) welcome(listener);
      read_answers(missing, neighbours);
    }
  }

 private:
  struct Visitor {
    Socket socket;
    std::string challenge;
    std::string answer;
  };
  static constexpr std::size_t kVisitorsMax = 256;

  void wait_for_news() {
    std::vector<pollfd> descriptors;
    for (const Socket& listener : listeners_) {
      descriptors.push_back({listener.descriptor(), POLLIN, 0});
    }
    for (const Visitor& visitor : visitors_) {
      descriptors.push_back({visitor.socket.descriptor(), POLLIN, 0});
    }
    poll(descriptors.data(), descriptors.size(), 100);
  }

  void welcome(const Socket& listener) {
    while (true) {
      Socket socket(accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket.is_open()) return;
      // The oldest silent visitor makes room.
      if (visitors_.size() >= kVisitorsMax) visitors_.erase(visitors_.begin());
      Visitor visitor{std::move(socket), random_bytes(kChallengeBytes), {}};
      const auto sent = send(visitor.socket.descriptor(), visitor.challenge.data(),
                             visitor.challenge.size(), MSG_NOSIGNAL);
      if (sent == static_cast<ssize_t>(kChallengeBytes)) visitors_.push_back(std::move(visitor));
    }
  }

  void read_answers(std::set<int>& missing, Neighbours& neighbours) {
    for (std::size_t i = 0; i < visitors_.size();) {
      if (read_answer(visitors_[i], missing, neighbours)) {
        visitors_.erase(visitors_.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
  }

  // True when the visitor is done with: let in, or dropped.
  bool read_answer(Visitor& visitor, std::set<int>& missing, Neighbours& neighbours) {
    std::array<char, kAnswerBytes> buffer;
    const auto got =
        recv(visitor.socket.descriptor(), buffer.data(), kAnswerBytes - visitor.answer.size(), 0);
    if (got < 0) return errno != EAGAIN && errno != EINTR;
    if (got == 0) return true;
    visitor.answer.append(buffer.data(), static_cast<std::size_t>(got));
    if (visitor.answer.size() < kAnswerBytes) return false;
    const auto child = handshake_.check_answer(visitor.challenge, visitor.answer);
    if (!child || !missing.contains(*child)) return true;
    const std::string proof = handshake_.prove(visitor.challenge, visitor.answer);
    if (!send_all(visitor.socket, proof, Deadline::after(kProofTime))) return true;
    set_tcp_options(visitor.socket, options_.peer_timeout);
    neighbours.emplace(*child, std::move(visitor.socket));
    missing.erase(*child);
    return true;
  }

  const std::vector<Socket>& listeners_;
  const Handshake& handshake_;
  const ControlOptions& options_;
  std::vector<Visitor> visitors_;
};

}  // namespace

Neighbours connect_neighbours(Bootstrap& bootstrap, const ControlTree& tree,
                              const std::vector<HostFacts>& facts, const ControlOptions& options) {
  const Deadline deadline = Deadline::after(options.connect_timeout);
  Endpoint mine;
  if (tree.rank == 0) mine.key = random_bytes(kSessionKeyBytes);
  std::vector<Socket> listeners;
  std::optional<Error> problem;
  try {
    listeners = listen_for_children(tree, facts, mine);
  } catch (const Error& error) {
    // The others wait in the exchange; the children then find nobody to connect to.
    mine.unix_name.clear();
    mine.tcp.clear();
    problem = error;
  }
  const std::vector<std::string> blobs =
      bootstrap.exchange(mine.to_blob(), options.connect_timeout);
  if (problem) throw *problem;
  const std::string key = Endpoint::from_blob(blobs.front()).key;
  Neighbours neighbours;
  if (tree.parent >= 0) {
    const Endpoint parent = Endpoint::from_blob(blobs[static_cast<std::size_t>(tree.parent)]);
    neighbours.emplace(tree.parent,
                       join_parent(parent, Handshake{key, tree.parent}, tree.rank,
                                   is_same_host(facts, tree.rank, tree.parent), options, deadline));
  }
  const Handshake handshake{key, tree.rank};
  Reception(listeners, handshake, options)
      .accept_all({tree.children.begin(), tree.children.end()}, neighbours, deadline);
  return neighbours;
}

}  // namespace scalecom
