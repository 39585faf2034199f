#include "runtime/data_plane.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "collective/message_collectives.hpp"
#include "collective/shm/shm_collectives.hpp"
#include "mpi_plugin/mpi_backend.hpp"
#include "runtime/tuning/tune.hpp"
#include "runtime/worker_pool.hpp"
#include "scalecom/version.hpp"

namespace scalecom {
namespace {

// A slot this long keeps a block in the cache of the processor; many ranks get shorter ones.
constexpr std::size_t kSlotBytesMax = 512 << 10;
constexpr std::size_t kSlotBytesMin = 64 << 10;
constexpr std::size_t kHostBytesMax = 64 << 20;

std::size_t slot_bytes_for(std::size_t ranks) {
  const std::size_t share = kHostBytesMax / (ranks * Board::kSlots);
  const std::size_t bytes =
      std::clamp(share / kSlotBytesMin * kSlotBytesMin, kSlotBytesMin, kSlotBytesMax);
  return std::max(bytes, ranks * Board::kLineBytes);  // Some operations give each rank a share.
}

std::size_t most_ranks_on_a_host(const HostRanks& hosts) {
  std::size_t most = 0;
  for (const std::vector<int>& ranks : hosts) most = std::max(most, ranks.size());
  return most;
}

// Every rank as its own host: for ranks that cannot, or are not to, share memory.
HostRanks apart(const HostRanks& hosts) {
  HostRanks alone;
  for (const std::vector<int>& ranks : hosts) {
    for (const int rank : ranks) alone.push_back({rank});
  }
  std::sort(alone.begin(), alone.end());
  return alone;
}

// The board of this rank's host, and the hosts as the collectives are to see them.
HostRanks make_board(SessionParts& parts, const DataPlaneNeeds& needs) {
  const Topology& topology = parts.topology;
  HostRanks hosts = ranks_by_host(needs.facts);
  // The same on all hosts, whose ranks work on the same blocks.
  const std::size_t slot_bytes = slot_bytes_for(most_ranks_on_a_host(hosts));
  if (parts.config.shared_memory && most_ranks_on_a_host(hosts) > 1) {
    parts.host_segment =
        share_host_segment(needs.bootstrap, needs.facts,
                           Board::bytes_for(topology.local_size, slot_bytes), needs.options);
    parts.report.shared_memory = parts.host_segment.problem;
    if (parts.host_segment.is_usable()) {
      parts.board = std::make_unique<Board>(parts.host_segment.segment.bytes(), topology.local_rank,
                                            topology.local_size, slot_bytes);
      return hosts;
    }
  }
  // Zeros, also after a board that came out of step.
  parts.board_memory.assign(Board::bytes_for(1, slot_bytes) / Board::kLineBytes, {});
  parts.board = std::make_unique<Board>(std::as_writable_bytes(std::span(parts.board_memory)), 0, 1,
                                        slot_bytes);
  return apart(hosts);
}

// "name: ranks" of each, sorted: the same job finds its figures again wherever its ranks begin.
std::vector<std::string> describe_hosts(const HostRanks& hosts, const Topology& topology) {
  std::vector<std::string> described;
  for (const std::vector<int>& ranks : hosts) {
    described.push_back(fmt::format(
        "{}: {}", topology.hosts[static_cast<std::size_t>(ranks.front())], ranks.size()));
  }
  std::sort(described.begin(), described.end());
  return described;
}

TuningResult tune_parts(SessionParts& parts, Bootstrap& bootstrap, const HostRanks& hosts) {
  const Config& config = parts.config;
  const bool is_inside = hosts.size() == 1;
  const auto threads = static_cast<int>(config.compress_threads);
  WorkerPool workers(threads);
  return tune({.bootstrap = bootstrap,
               .transport = *parts.transport,
               .board = *parts.board,
               .hosts = hosts,
               .defaults = parts.tuning,
               .key = {.version = kVersion,
                       .hosts = describe_hosts(hosts, parts.topology),
                       .ranks = parts.topology.size,
                       .compress_threads = threads,
                       .transport = std::string(parts.transport->name()),
                       .collectives = is_inside ? "shared memory" : "messages",
                       .cpu_model = cpu_model(),
                       .thoroughness = config.tune},
               .plan = config.tune == "full" ? MeasurementPlan::full() : MeasurementPlan::quick(),
               .threads = {threads, [&](const auto& body) { workers.run(threads, body); }},
               .cache_directory = config.cache_directory,
               .limit = std::chrono::duration<double>(config.connect_timeout_s)});
}

}  // namespace

HostRanks make_data_plane(SessionParts& parts, const DataPlaneNeeds& needs) {
  HostRanks hosts = make_board(parts, needs);
  parts.transport = needs.make_transport();
  parts.tuning =
      Tuning::defaults(static_cast<int>(most_ranks_on_a_host(hosts)), parts.board->slot_bytes());
  if (parts.config.tune == "off" || parts.topology.size == 1) return hosts;
  const TuningResult result = tune_parts(parts, needs.bootstrap, hosts);
  parts.tuning = result.tuning;
  parts.report.tuning_source = result.source;
  if (result.is_out_of_step) {
    // The descriptors that a session needs are counted for one transport.
    parts.transport.reset();
    parts.board.reset();
    hosts = make_board(parts, needs);
    parts.transport = needs.make_transport();
  }
  return hosts;
}

std::unique_ptr<Collectives> make_collectives(const SessionParts& parts, const HostRanks& hosts) {
  const std::string& algorithm = parts.config.allreduce_algorithm;
  if (algorithm == "mpi" && parts.backend != nullptr) return parts.backend->make_collectives();
  if (parts.board == nullptr) {
    return std::make_unique<MessageCollectives>(
        *parts.transport, algorithm == "mpi" ? "auto" : algorithm, parts.tuning.between_hosts);
  }
  if (hosts.size() == 1) {
    return std::make_unique<ShmCollectives>(*parts.board, parts.tuning.shm,
                                            parts.tuning.inside_host);
  }
  return std::make_unique<HierarchicalCollectives>(*parts.board, *parts.transport, hosts,
                                                   parts.tuning);
}

}  // namespace scalecom
