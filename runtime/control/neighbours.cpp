#include "runtime/control/neighbours.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "base/error.hpp"
#include "base/json_line.hpp"
#include "base/wait.hpp"
#include "runtime/control/handshake.hpp"
#include "runtime/control/reception.hpp"
#include "runtime/control/tree.hpp"
#include "transport/socket/address.hpp"

namespace scalecom {
namespace {

// What a parent tells the others: where its children find it. Rank 0 adds the key.
struct Endpoint {
  using Places = std::vector<std::pair<std::string, int>>;  // address and port

  std::string key;
  std::string unix_name;
  Places tcp;

  std::string to_blob() const {
    std::vector<std::uint8_t> bytes(key.begin(), key.end());
    return nlohmann::json{{"key", bytes}, {"unix", unix_name}, {"tcp", tcp}}.dump();
  }
  static Endpoint from_blob(const std::string& blob) {
    return read_json(blob, "a rank's endpoint", [](const nlohmann::json& json) {
      const auto bytes = json.at("key").get<std::vector<std::uint8_t>>();
      return Endpoint{{bytes.begin(), bytes.end()}, json.at("unix"), json.at("tcp")};
    });
  }
};

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
std::vector<Socket> listen_for_children(int rank, const std::vector<int>& children,
                                        const std::vector<HostFacts>& facts, Endpoint& endpoint) {
  std::vector<Socket> listeners;
  std::set<std::string> addresses;
  const auto& mine = facts[static_cast<std::size_t>(rank)].addresses;
  for (const int child : children) {
    if (is_same_host(facts, rank, child)) {
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
    if (!is_reachable) fail_to_reach(theirs, rank, child);
  }
  return listeners;
}

// The error is ETIMEDOUT where one is silent: it may have room later.
Socket connect_over_tcp(const Endpoint::Places& places, const ControlOptions& options,
                        Deadline deadline) {
  int error = EHOSTUNREACH;
  for (const auto& [address, port] : places) {
    Socket socket =
        connect_tcp(address, port, std::min(deadline, Deadline::after(options.peer_timeout)));
    if (socket.is_open()) {
      set_tcp_options(socket, options.peer_timeout);
      return socket;
    }
    if (error != ETIMEDOUT) error = errno;
  }
  errno = error;
  return {};
}

// IPv4 comes first, unless a parent before this one was reached by IPv6 only: where one of the two
// leads nowhere in silence, each try costs the peer's time. The first says what has become of the
// parent, unless there is no way by it.
Socket connect_to(const Endpoint& parent, bool is_same_host, const ControlOptions& options,
                  Deadline deadline, bool& is_by_ipv6) {
  if (is_same_host) return connect_unix(parent.unix_name);
  std::vector<Endpoint::Places> families(2);
  for (const auto& place : parent.tcp) {
    families[is_ipv6(place.first) == is_by_ipv6 ? 0 : 1].push_back(place);
  }
  if (families[0].empty()) std::swap(families[0], families[1]);
  Socket socket = connect_over_tcp(families[0], options, deadline);
  if (socket.is_open() || families[1].empty()) return socket;
  const int error = errno;
  socket = connect_over_tcp(families[1], options, deadline);
  if (socket.is_open()) is_by_ipv6 = !is_by_ipv6;
  if (error != ENETUNREACH && error != EHOSTUNREACH && error != EADDRNOTAVAIL) errno = error;
  return socket;
}

// A firewall is none inside a host.
Error cannot_connect(const Endpoint& parent, int parent_rank, int rank, const std::string& why) {
  std::vector<std::string> places;
  for (const auto& [address, port] : parent.tcp) {
    places.push_back(fmt::format("{} port {}", address, port));
  }
  return {StatusCode::timed_out,
          fmt::format(
              "rank {} cannot connect to rank {} for control messages{}{} ({}); {}", rank,
              parent_rank, places.empty() ? "" : " at ", fmt::join(places, ", "), why,
              places.empty()
                  ? "see whether that rank has failed, is stopped or very busy"
                  : "a firewall may be in the way between the hosts, or an address "
                    "translation (NAT): each rank must reach the others' own addresses; or that "
                    "rank is stopped or very busy")};
}

// A parent whose queue is full, or that dropped a rank which was slow, may have room later. Over
// TCP a full queue is silent, as a firewall is.
Socket join_parent(const Endpoint& parent, const Handshake& handshake, int rank, bool is_same_host,
                   const ControlOptions& options, Deadline deadline, bool& is_by_ipv6) {
  if (parent.unix_name.empty() && parent.tcp.empty()) {
    throw cannot_connect(parent, handshake.parent, rank, "it does not listen");
  }
  const WaitContext context{deadline};
  WaitLoop loop(context);
  while (true) {
    Socket socket = connect_to(parent, is_same_host, options, deadline, is_by_ipv6);
    const int error = socket.is_open() ? 0 : errno;
    if (error == 0 && introduce_to_parent(socket, handshake, rank, deadline)) return socket;
    const Error problem =
        error != 0 ? cannot_connect(parent, handshake.parent, rank, std::strerror(error))
                   : Error(StatusCode::timed_out,
                           fmt::format("rank {} did not prove to rank {} that it belongs to this "
                                       "job in time; SCALECOM_CONNECT_TIMEOUT sets the time",
                                       handshake.parent, rank));
    if (error != 0 && error != EAGAIN && error != ETIMEDOUT) throw problem;
    if (!deadline.has_passed()) loop.pause(problem.what());
    if (deadline.has_passed()) throw problem;
  }
}

void accept_children(const std::vector<Socket>& listeners, const Handshake& handshake,
                     std::set<int> missing, const ControlOptions& options, Deadline deadline,
                     Neighbours& neighbours) {
  Reception reception(listeners, handshake);
  while (!missing.empty()) {
    if (deadline.has_passed()) {
      throw Error(StatusCode::timed_out,
                  fmt::format("no control connection from rank {} in {:g} s; see that its process "
                              "is alive and its host reaches this one, or raise "
                              "SCALECOM_CONNECT_TIMEOUT",
                              fmt::join(missing, ", "), options.connect_timeout.count()));
    }
    for (Reception::Arrival& arrival : reception.wait()) {
      if (missing.erase(arrival.rank) == 0) continue;
      set_tcp_options(arrival.socket, options.peer_timeout);
      neighbours.emplace(arrival.rank, std::move(arrival.socket));
    }
  }
}

}  // namespace

Links Links::in_tree(int rank, int size) {
  const ControlTree tree = ControlTree::make(rank, size);
  Links links{{}, tree.children};
  if (tree.parent >= 0) links.parents.push_back(tree.parent);
  return links;
}

Links Links::to_all(int rank, int size) {
  Links links;
  for (int other = 0; other < size; ++other) {
    if (other != rank) (other < rank ? links.parents : links.children).push_back(other);
  }
  return links;
}

Links Links::in_host(int rank, const std::vector<HostFacts>& facts) {
  for (const std::vector<int>& ranks : ranks_by_host(facts)) {
    if (ranks.front() == rank) return {{}, {ranks.begin() + 1, ranks.end()}};
    if (std::ranges::find(ranks, rank) != ranks.end()) return {{ranks.front()}, {}};
  }
  return {};
}

Neighbours connect_neighbours(Bootstrap& bootstrap, const Links& links,
                              const std::vector<HostFacts>& facts, const ControlOptions& options) {
  const Deadline deadline = Deadline::after(options.connect_timeout);
  const int rank = bootstrap.rank();
  Endpoint mine;
  if (rank == 0) mine.key = random_bytes(kSessionKeyBytes);
  std::vector<Socket> listeners;
  std::optional<Error> problem;
  try {
    listeners = listen_for_children(rank, links.children, facts, mine);
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
  bool is_by_ipv6 = false;
  for (const int parent_rank : links.parents) {
    const Endpoint parent = Endpoint::from_blob(blobs[static_cast<std::size_t>(parent_rank)]);
    neighbours.emplace(parent_rank, join_parent(parent, Handshake{key, parent_rank}, rank,
                                                is_same_host(facts, rank, parent_rank), options,
                                                deadline, is_by_ipv6));
  }
  accept_children(listeners, Handshake{key, rank}, {links.children.begin(), links.children.end()},
                  options, deadline, neighbours);
  return neighbours;
}

}  // namespace scalecom
