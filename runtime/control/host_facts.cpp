#include "runtime/control/host_facts.hpp"

#include <ifaddrs.h>
#include <net/if.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <utility>

#include "base/json_line.hpp"
#include "transport/socket/address.hpp"

namespace scalecom {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string host_id() {
  std::string boot_id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot_id);
  struct stat network {};
  stat("/proc/self/ns/net", &network);
  return (boot_id.empty() ? host_name() : boot_id) + "/" + std::to_string(network.st_ino);
}

std::vector<std::string> interface_addresses() {
  ifaddrs* raw = nullptr;
  if (getifaddrs(&raw) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> list(raw, &freeifaddrs);
  std::vector<Address> addresses;
  for (const ifaddrs* entry = list.get(); entry != nullptr; entry = entry->ifa_next) {
    const bool is_usable = entry->ifa_addr != nullptr && (entry->ifa_flags & IFF_UP) != 0 &&
                           (entry->ifa_flags & IFF_LOOPBACK) == 0;
    if (!is_usable) continue;
    if (const auto address = Address::of(entry->ifa_addr)) addresses.push_back(*address);
  }
  return texts_for_others(std::move(addresses));
}

}  // namespace

HostFacts local_host_facts() { return {host_name(), host_id(), interface_addresses()}; }

std::string serialize(const HostFacts& facts) {
  return to_json_line(
      {{"host_name", facts.host_name}, {"host_id", facts.host_id}, {"addresses", facts.addresses}});
}

HostFacts parse_host_facts(const std::string& text) {
  return read_json(text, "a rank's host facts", [](const nlohmann::json& json) {
    return HostFacts{json.at("host_name"), json.at("host_id"), json.at("addresses")};
  });
}

std::vector<std::vector<int>> ranks_by_host(const std::vector<HostFacts>& facts) {
  std::map<std::string, std::size_t> place_of;
  std::vector<std::vector<int>> hosts;
  for (std::size_t rank = 0; rank < facts.size(); ++rank) {
    const auto [place, is_new] = place_of.try_emplace(facts[rank].host_id, hosts.size());
    if (is_new) hosts.emplace_back();
    hosts[place->second].push_back(static_cast<int>(rank));
  }
  return hosts;
}

Topology make_topology(int rank, const std::vector<HostFacts>& facts) {
  const auto mine = static_cast<std::size_t>(rank);
  std::map<std::string, int> ranks_of_host;
  std::vector<int> local_rank_of(facts.size());
  Topology topology;
  for (std::size_t r = 0; r < facts.size(); ++r) {
    local_rank_of[r] = ranks_of_host[facts[r].host_id]++;
    topology.hosts.push_back(facts[r].host_name);
  }
  topology.rank = rank;
  topology.size = static_cast<int>(facts.size());
  topology.local_rank = local_rank_of[mine];
  topology.local_size = ranks_of_host[facts[mine].host_id];
  topology.cross_size = 0;
  for (std::size_t r = 0; r < facts.size(); ++r) {
    if (local_rank_of[r] != topology.local_rank) continue;
    if (r < mine) ++topology.cross_rank;
    ++topology.cross_size;
  }
  for (const auto& [host, ranks] : ranks_of_host) {
    topology.is_homogeneous = topology.is_homogeneous && ranks == topology.local_size;
  }
  return topology;
}

}  // namespace scalecom
