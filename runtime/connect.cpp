#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "collective/message_collectives.hpp"
#include "collective/shm/hierarchical.hpp"
#include "collective/shm/shm_collectives.hpp"
#include "kernels/reduce.hpp"
#include "runtime/control/host_facts.hpp"
#include "runtime/control/loopback_channel.hpp"
#include "runtime/control/socket_channel.hpp"
#include "runtime/launch.hpp"
#include "runtime/mpi_plugin.hpp"
#include "runtime/session_impl.hpp"
#include "runtime/settings.hpp"
#include "runtime/tuning/tune.hpp"
#include "scalecom/version.hpp"
#include "transport/loopback/loopback_transport.hpp"
#include "transport/mpi/mpi_backend.hpp"

namespace scalecom {
namespace {

// What a rank tells the others before anything else: who it is, and how it is set.
struct Introduction {
  std::string version;
  std::string facts;
  std::string settings;
};

std::string to_blob(const Introduction& introduction) {
  return nlohmann::json{{"version", introduction.version},
                        {"facts", introduction.facts},
                        {"settings", introduction.settings}}
      .dump();
}

Introduction from_blob(const std::string& blob) {
  const auto json = nlohmann::json::parse(blob);
  return {json.at("version"), json.at("facts"), json.at("settings")};
}

// Throws on every rank alike when the ranks do not belong together.
std::vector<HostFacts> introduce(Bootstrap& bootstrap, const Config& config) {
  const Bootstrap::Limit limit(config.connect_timeout_s);
  const Introduction mine{kVersion, serialize(local_host_facts()), agreement_fingerprint(config)};
  std::vector<HostFacts> facts;
  std::vector<std::string> settings;
  int rank = 0;
  for (const std::string& blob : bootstrap.exchange(to_blob(mine), limit)) {
    Introduction introduction = from_blob(blob);
    if (introduction.version != kVersion) {
      throw Error(
          StatusCode::invalid_argument,
          fmt::format("rank {} runs scalecom {} and rank {} runs {}; install one version on "
                      "every host",
                      rank, introduction.version, bootstrap.rank(), kVersion));
    }
    facts.push_back(parse_host_facts(introduction.facts));
    settings.push_back(std::move(introduction.settings));
    ++rank;
  }
  if (const std::string problem = describe_disagreement(settings); !problem.empty()) {
    throw Error(StatusCode::invalid_argument, problem);
  }
  return facts;
}

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

// A named algorithm is one of messages, also inside a host.
bool has_own_collectives(const Config& config) { return config.allreduce_algorithm == "auto"; }

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
HostRanks make_board(SessionParts& parts, Bootstrap& bootstrap, const std::vector<HostFacts>& facts,
                     const ControlOptions& options) {
  const Topology& topology = parts.topology;
  HostRanks hosts = ranks_by_host(facts);
  // The same on all hosts, whose ranks work on the same blocks.
  const std::size_t slot_bytes = slot_bytes_for(most_ranks_on_a_host(hosts));
  if (parts.config.shared_memory && most_ranks_on_a_host(hosts) > 1) {
    parts.host_segment = share_host_segment(
        bootstrap, facts, Board::bytes_for(topology.local_size, slot_bytes), options);
    parts.report.shared_memory = parts.host_segment.problem;
    if (parts.host_segment.is_usable()) {
      parts.board = std::make_unique<Board>(parts.host_segment.segment.bytes(), topology.local_rank,
                                            topology.local_size, slot_bytes);
      return hosts;
    }
  }
  parts.board_memory.resize(Board::bytes_for(1, slot_bytes) / Board::kLineBytes);
  parts.board = std::make_unique<Board>(std::as_writable_bytes(std::span(parts.board_memory)), 0, 1,
                                        slot_bytes);
  return apart(hosts);
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
  return tune({.bootstrap = bootstrap,
               .transport = *parts.transport,
               .board = *parts.board,
               .hosts = hosts,
               .key = {.version = kVersion,
                       .hosts = describe_hosts(hosts, parts.topology),
                       .ranks = parts.topology.size,
                       .transport = std::string(parts.transport->name()),
                       .collectives = is_inside ? "shared memory" : "messages",
                       .cpu_model = cpu_model(),
                       .thoroughness = config.tune},
               .cache_directory = config.cache_directory,
               .limit = std::chrono::duration<double>(config.connect_timeout_s)});
}

// The ranks' board, transport and tuning, for the library's own collectives.
HostRanks make_data_plane(SessionParts& parts, Bootstrap& bootstrap,
                          const std::vector<HostFacts>& facts, const ControlOptions& options) {
  HostRanks hosts = make_board(parts, bootstrap, facts, options);
  parts.transport = parts.backend->make_transport();
  parts.tuning =
      Tuning::defaults(static_cast<int>(most_ranks_on_a_host(hosts)), parts.board->slot_bytes());
  if (parts.config.tune == "off" || parts.topology.size == 1) return hosts;
  const TuningResult result = tune_parts(parts, bootstrap, hosts);
  parts.tuning = result.tuning;
  parts.report.tuning_source = result.source;
  if (result.is_out_of_step) {
    parts.board.reset();
    hosts = make_board(parts, bootstrap, facts, options);
    parts.transport = parts.backend->make_transport();
  }
  return hosts;
}

// Connects on every rank or throws on every rank alike, with the cause that the lowest rank met:
// one that went on alone would wait for the others until its time is over.
std::unique_ptr<ControlChannel> connect_control(Bootstrap& bootstrap,
                                                const std::vector<HostFacts>& facts,
                                                const ControlOptions& options) {
  std::unique_ptr<ControlChannel> channel;
  std::string problem;
  try {
    channel = connect_control_channel(
        bootstrap, ControlTree::make(bootstrap.rank(), bootstrap.size()), facts, options);
  } catch (const Error& error) {
    problem = fmt::format("{} {}", static_cast<int>(error.code()), error.what());
  }
  // The others may have failed at once, and this rank as late as it may.
  for (const std::string& other : bootstrap.exchange(problem, 2 * options.connect_timeout)) {
    if (other.empty()) continue;
    const std::size_t end_of_code = other.find(' ');
    throw Error(static_cast<StatusCode>(std::stoi(other)), other.substr(end_of_code + 1));
  }
  return channel;
}

SessionParts connect_alone(const Config& config) {
  SessionParts parts;
  parts.config = config;
  parts.topology = make_topology(0, {local_host_facts()});
  configure_log(parse_log_level(config.log_level), 0);
  parts.transport = LoopbackWorld(1).make_transport(0);
  parts.channel = LoopbackControlWorld(1).make_channel(0);
  parts.collectives = make_collectives(parts, {{0}});
  return parts;
}

SessionParts connect_over_mpi(const Config& config, const MpiLaunch& launch) {
  SessionParts parts;
  parts.config = config;
  const std::shared_ptr<MpiBackend> backend =
      load_mpi_backend(launch, Bootstrap::Limit(config.connect_timeout_s));
  parts.backend = backend;
  Bootstrap& bootstrap = backend->bootstrap();
  const std::vector<HostFacts> facts = introduce(bootstrap, config);
  parts.topology = make_topology(bootstrap.rank(), facts);
  const ControlOptions options{
      .connect_timeout = std::chrono::duration<double>(config.connect_timeout_s),
      .peer_timeout = std::chrono::duration<double>(config.peer_timeout_s)};
  parts.channel = connect_control(bootstrap, facts, options);
  configure_log(parse_log_level(config.log_level), parts.topology.rank);
  HostRanks hosts;
  if (has_own_collectives(config) && parts.topology.size > 1) {
    hosts = make_data_plane(parts, bootstrap, facts, options);
  } else {
    parts.transport = backend->make_transport();
  }
  parts.collectives = make_collectives(parts, hosts);
  parts.report.library = backend->library_version();
  parts.report.thread_level = backend->thread_level();
  return parts;
}

}  // namespace

SessionParts connect_session(const Config& config) {
  const MpiLaunch launch = find_mpi_launch();
  SessionParts parts = launch ? connect_over_mpi(config, launch) : connect_alone(config);
  for (const std::string& warning : settings_without_effect(config)) log_warning(warning);
  if (!parts.report.shared_memory.empty() && parts.topology.rank == 0) {
    log_warning("ranks of one host do not share memory, so MPI carries their data: " +
                parts.report.shared_memory);
  }
  parts.report.transport = parts.transport->name();
  parts.report.collectives = parts.collectives->name();
  if (parts.report.tuning_source.empty()) parts.report.tuning_source = "defaults";
  parts.report.tuning = to_json(parts.tuning);
  parts.report.simd_target = kernels::simd_target();
  parts.report.control_plane = parts.topology.size > kStarRanksMax ? "tree" : "star";
  return parts;
}

}  // namespace scalecom
