#pragma once

#include <chrono>
#include <map>
#include <vector>

#include "runtime/control/host_facts.hpp"
#include "transport/bootstrap.hpp"
#include "transport/socket/sockets.hpp"

namespace scalecom {

struct ControlOptions {
  std::chrono::duration<double> connect_timeout{60.0};
  std::chrono::duration<double> peer_timeout{5.0};
};

/// Whom a rank connects with: it asks its parents, and its children ask it. Nobody is asked by a
/// rank below the asked one, so that the ranks' waits for each other have an end.
struct Links {
  std::vector<int> parents;   ///< ascending
  std::vector<int> children;  ///< ascending

  int count() const noexcept { return static_cast<int>(parents.size() + children.size()); }

  /// Those of the control tree.
  static Links in_tree(int rank, int size);
  /// Every rank with every other.
  static Links to_all(int rank, int size);
  /// The other ranks of each host with the lowest one there.
  static Links in_host(int rank, const std::vector<HostFacts>& facts);
};

/// Sockets to this rank's neighbours, by rank.
using Neighbours = std::map<int, Socket>;

/// Connects this rank with its neighbours: Unix sockets inside a host, TCP between
/// hosts, listening only on the addresses that lead to a child. Rank 0's random session key and the
/// addresses travel over `bootstrap`; every connection is authenticated (see handshake.hpp), and
/// strangers are dropped. `facts` are those of all ranks, and every rank of the job calls, also one
/// without neighbours. Throws Error(timed_out) that names the ranks which are missing.
Neighbours connect_neighbours(Bootstrap& bootstrap, const Links& links,
                              const std::vector<HostFacts>& facts, const ControlOptions& options);

}  // namespace scalecom
