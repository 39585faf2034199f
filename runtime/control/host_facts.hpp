#pragma once

#include <string>
#include <vector>

#include "scalecom/session.hpp"

namespace scalecom {

/// What a rank tells the others about where it runs.
struct HostFacts {
  std::string host_name;
  /// Equal on two ranks exactly when they can reach each other inside one host: the kernel's boot
  /// id and the network namespace.
  std::string host_id;
  /// Addresses of the host's interfaces that are up, numeric, IPv4 before IPv6, without those that
  /// mean something on the host only: loopback and link-local ones.
  std::vector<std::string> addresses;

  bool operator==(const HostFacts&) const = default;
};

HostFacts local_host_facts();

std::string serialize(const HostFacts& facts);
/// Throws Error(internal) for what serialize() did not write.
HostFacts parse_host_facts(const std::string& text);

/// The ranks of each host, ascending; hosts by their lowest rank. Pure.
std::vector<std::vector<int>> ranks_by_host(const std::vector<HostFacts>& facts);

/// Local and cross ranks from every rank's facts, by rank. Pure.
Topology make_topology(int rank, const std::vector<HostFacts>& facts);

}  // namespace scalecom
