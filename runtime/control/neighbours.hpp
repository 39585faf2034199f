#pragma once

#include <chrono>
#include <map>
#include <vector>

#include "runtime/control/host_facts.hpp"
#include "runtime/control/sockets.hpp"
#include "runtime/control/tree.hpp"
#include "transport/bootstrap.hpp"

namespace scalecom {

struct ControlOptions {
  std::chrono::duration<double> connect_timeout{60.0};
  std::chrono::duration<double> peer_timeout{5.0};
};

/// Sockets to this rank's neighbours in a tree, by rank.
using Neighbours = std::map<int, Socket>;

/// Connects this rank with its neighbours in the tree: Unix sockets inside a host, TCP between
/// hosts, listening only on the addresses that lead to a child. Rank 0's random session key and the
/// addresses travel over `bootstrap`; every connection is authenticated (see handshake.hpp), and
/// strangers are dropped. `facts` are those of all ranks, and every rank of the job calls, also one
/// without neighbours. Throws Error(timed_out) that names the ranks which are missing.
Neighbours connect_neighbours(Bootstrap& bootstrap, const ControlTree& tree,
                              const std::vector<HostFacts>& facts, const ControlOptions& options);

}  // namespace scalecom
