#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "kernels/reduce.hpp"
#include "runtime/control/host_facts.hpp"
#include "runtime/control/loopback_channel.hpp"
#include "runtime/control/socket_channel.hpp"
#include "runtime/data_plane.hpp"
#include "runtime/launch.hpp"
#include "runtime/mpi_plugin.hpp"
#include "runtime/session_impl.hpp"
#include "runtime/settings.hpp"
#include "runtime/tuning/tuning_file.hpp"
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

// A named algorithm is one of messages, also inside a host.
bool has_own_collectives(const Config& config) { return config.allreduce_algorithm == "auto"; }

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
