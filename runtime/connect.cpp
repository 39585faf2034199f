#include <fmt/format.h>

#include <functional>
#include <numeric>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/json_line.hpp"
#include "base/log.hpp"
#include "device/nccl/tuner.hpp"
#include "kernels/reduce.hpp"
#include "mpi_plugin/mpi_backend.hpp"
#include "runtime/control/host_facts.hpp"
#include "runtime/control/loopback_channel.hpp"
#include "runtime/control/open_files.hpp"
#include "runtime/control/rendezvous.hpp"
#include "runtime/control/socket_channel.hpp"
#include "runtime/control/tree.hpp"
#include "runtime/data_plane.hpp"
#include "runtime/device/choose_collectives.hpp"
#include "runtime/fusion_tuning.hpp"
#include "runtime/health_file.hpp"
#include "runtime/launch.hpp"
#include "runtime/mpi_plugin.hpp"
#include "runtime/session_impl.hpp"
#include "runtime/settings.hpp"
#include "runtime/tuning/tuning_file.hpp"
#include "scalecom/version.hpp"
#include "transport/loopback/loopback_transport.hpp"
#include "transport/socket/socket_transport.hpp"

namespace scalecom {
namespace {

// What a rank tells the others before anything else: who it is, and how it is set.
struct Introduction {
  std::string version;
  std::string facts;
  std::string settings;
  std::string problem;  ///< why this rank cannot work as it is set; empty: it can
};

std::string to_blob(const Introduction& introduction) {
  return to_json_line({{"version", introduction.version},
                       {"facts", introduction.facts},
                       {"settings", introduction.settings},
                       {"problem", introduction.problem}});
}

// Of another version the version alone: the rest may have other names there.
Introduction from_blob(const std::string& blob) {
  return read_json(blob, "what a rank says of itself", [](const nlohmann::json& json) {
    Introduction introduction;
    introduction.version = json.at("version");
    if (introduction.version != kVersion) return introduction;
    introduction.facts = json.at("facts");
    introduction.settings = json.at("settings");
    introduction.problem = json.at("problem");
    return introduction;
  });
}

// With the files that rank 0 writes.
std::string file_problem(const Config& config) {
  try {
    open_autotune_log(config);
    if (!config.health_file.empty()) HealthFile{config};
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

// With the library that is NCCL by SCALECOM_NCCL_LIBRARY.
std::string nccl_problem(const Config& config) {
  if (config.nccl_library.empty() || config.cuda_collectives == "host") return {};
  try {
    device::nccl::probe({.named = config.nccl_library});
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

// What keeps this rank from working as it is set, with so many connections.
std::string problem_of(const Config& config, int rank, int connections) {
  for (const std::string& problem : {lack_of_open_files(connections), nccl_problem(config)}) {
    if (!problem.empty()) return fmt::format("rank {}: {}", rank, problem);
  }
  return rank == 0 ? file_problem(config) : "";
}

// Throws on every rank alike when the ranks do not belong together, or one cannot work.
// `data_connections`: that each rank needs beside those for control messages.
std::vector<HostFacts> introduce(Bootstrap& bootstrap, const Config& config, int data_connections) {
  const int connections =
      data_connections + Links::in_tree(bootstrap.rank(), bootstrap.size()).count();
  const Bootstrap::Limit limit(config.connect_timeout_s);
  const Introduction mine{kVersion, serialize(local_host_facts()), agreement_fingerprint(config),
                          problem_of(config, bootstrap.rank(), connections)};
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
    if (!introduction.problem.empty()) {
      throw Error(StatusCode::invalid_argument, introduction.problem);
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

// Makes something on every rank or throws on every rank alike, with the cause that the lowest rank
// met: one that went on alone would wait for the others until its time is over.
template <class Make>
auto make_together(Bootstrap& bootstrap, const ControlOptions& options, const Make& make) {
  const Deadline end = Deadline::after(options.connect_timeout);
  std::optional<std::invoke_result_t<Make>> made;
  Status mine;
  try {
    made = make();
  } catch (const Error& error) {
    mine = error.status();
  }
  const Status failure = first_failure(bootstrap, mine, end, options.connect_timeout);
  if (!failure.is_ok()) throw Error(failure);
  return std::move(*made);
}

// Without hosts every rank is one.
std::vector<int> host_numbers(const HostRanks& hosts, int size) {
  std::vector<int> numbers(static_cast<std::size_t>(size));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (std::size_t host = 0; host < hosts.size(); ++host) {
    for (const int rank : hosts[host]) {
      numbers[static_cast<std::size_t>(rank)] = static_cast<int>(host);
    }
  }
  return numbers;
}

std::unique_ptr<DeviceCollectives> make_device_collectives(Accelerator& accelerator,
                                                           const SessionParts& parts,
                                                           const WaitContext& context) {
  const auto load_nccl = [&config = parts.config] {
    return device::nccl::load_api({.named = config.nccl_library, .offered = config.nccl_offered});
  };
  return choose_device_collectives({.accelerator = accelerator,
                                    .host = *parts.collectives,
                                    .config = parts.config,
                                    .host_id = local_host_facts().host_id,
                                    .host_of_rank = parts.host_of_rank,
                                    .load_nccl = load_nccl},
                                   context);
}

SessionParts connect_alone(const Config& config) {
  SessionParts parts;
  parts.config = config;
  parts.report.launcher = "none: one process";
  parts.topology = make_topology(0, {local_host_facts()});
  parts.transport = LoopbackWorld(1).make_transport(0);
  parts.channel = LoopbackControlWorld(1).make_channel(0);
  parts.collectives = make_collectives(parts, {{0}});
  parts.host_of_rank = {0};
  return parts;
}

// Where the ranks' data and their own collectives come from.
struct Medium {
  Bootstrap& bootstrap;
  using Facts = std::vector<HostFacts>;
  std::function<std::unique_ptr<Transport>(const Facts&, const ControlOptions&)> make_transport;
  int connections = 0;  ///< that each rank needs for data
};

void connect_ranks(SessionParts& parts, const Medium& medium) {
  Bootstrap& bootstrap = medium.bootstrap;
  const Config& config = parts.config;
  const std::vector<HostFacts> facts = introduce(bootstrap, config, medium.connections);
  parts.topology = make_topology(bootstrap.rank(), facts);
  const ControlOptions options{
      .connect_timeout = std::chrono::duration<double>(config.connect_timeout_s),
      .peer_timeout = std::chrono::duration<double>(config.peer_timeout_s)};
  parts.channel = make_together(bootstrap, options,
                                [&] { return connect_control_channel(bootstrap, facts, options); });
  const auto make_transport = [&] { return medium.make_transport(facts, options); };
  HostRanks hosts;
  if (has_own_collectives(config) && parts.topology.size > 1) {
    hosts = make_data_plane(parts, {bootstrap, facts, options, make_transport});
  } else {
    parts.transport = make_transport();
  }
  parts.collectives = make_collectives(parts, hosts);
  parts.host_of_rank = host_numbers(hosts, parts.topology.size);
}

SessionParts connect_over_mpi(const Config& config, const MpiLaunch& launch, Interrupt& interrupt) {
  SessionParts parts;
  parts.config = config;
  const std::shared_ptr<MpiBackend> backend =
      load_mpi_backend(launch, Bootstrap::Limit(config.connect_timeout_s), interrupt);
  parts.backend = backend;
  configure_log(parse_log_level(config.log_level), backend->bootstrap().rank());
  connect_ranks(parts, {backend->bootstrap(),
                        [&](const auto&, const auto&) { return backend->make_transport(); }, 0});
  parts.report.launcher = fmt::format("MPI ({})", launch.variable);
  parts.report.library = backend->library_version();
  parts.report.thread_level = backend->thread_level();
  parts.report.cuda_aware = backend->cuda_aware();
  return parts;
}

void connect_over_sockets(SessionParts& parts, Bootstrap& bootstrap) {
  const auto make_transport = [&](const Medium::Facts& facts, const ControlOptions& options) {
    const int rank = bootstrap.rank();
    const int size = bootstrap.size();
    Neighbours peers = make_together(bootstrap, options, [&] {
      return connect_neighbours(bootstrap, Links::to_all(rank, size), facts, options);
    });
    return make_socket_transport(rank, size, std::move(peers));
  };
  connect_ranks(parts, {bootstrap, make_transport, bootstrap.size() - 1});
}

SessionParts connect_by_rendezvous(const Config& config, const RankLaunch& launch,
                                   Interrupt& interrupt) {
  if (config.allreduce_algorithm == "mpi") {
    throw Error(StatusCode::invalid_argument,
                "SCALECOM_ALLREDUCE_ALGORITHM=mpi needs a job that was launched by MPI; start it "
                "with mpirun, or leave the setting out");
  }
  SessionParts parts;
  parts.config = config;
  parts.report.launcher = launch.launcher;
  configure_log(parse_log_level(config.log_level), launch.rank);
  const std::unique_ptr<Bootstrap> bootstrap =
      meet(plan_rendezvous(launch, config), Bootstrap::Limit(config.connect_timeout_s), &interrupt);
  connect_over_sockets(parts, *bootstrap);
  return parts;
}

SessionParts connect_launched(const Config& config, Interrupt& interrupt) {
  if (const MpiLaunch launch = find_mpi_launch())
    return connect_over_mpi(config, launch, interrupt);
  std::optional<RankLaunch> launch = find_rank_launch();
  if (!launch) launch = find_slurm_launch();
  if (!launch && !config.rendezvous.empty()) {
    throw Error(StatusCode::invalid_argument,
                fmt::format("{} is set, but neither RANK nor WORLD_SIZE is, which say who this "
                            "process is; set them, or start it with torchrun or srun",
                            variable_of(config, "RENDEZVOUS")));
  }
  if (launch && launch->size > 1) return connect_by_rendezvous(config, *launch, interrupt);
  configure_log(parse_log_level(config.log_level), 0);
  if (const std::string problem = nccl_problem(config); !problem.empty()) {
    throw Error(StatusCode::invalid_argument, problem);
  }
  return connect_alone(config);
}

// By one rank of each host, which may have an environment of its own.
void warn_of_settings(const Config& config) {
  for (const std::string& warning : settings_without_effect(config)) log_warning(warning);
  for (const std::string& warning : misspelt_settings(environment_names())) log_warning(warning);
}

// What does not depend on how the ranks were connected.
void complete(SessionParts& parts) {
  parts.make_accelerator = make_cuda_accelerator;
  if (device::nccl::all_reduce_algorithm_of(parts.config.allreduce_algorithm) !=
      device::nccl::AllReduceAlgorithm::own_choice) {
    offer_nccl_tuner(device::nccl::tuner_library());
  }
  parts.make_device_collectives = make_device_collectives;
  parts.report.transport = parts.transport->name();
  parts.report.collectives = parts.collectives->name();
  if (parts.report.tuning_source.empty()) parts.report.tuning_source = "defaults";
  parts.report.tuning = to_json(parts.tuning);
  parts.report.simd_target = kernels::simd_target();
  parts.report.control_plane = parts.topology.size > kStarRanksMax ? "tree" : "star";
}

}  // namespace

SessionParts connect_session(const Config& given, std::stop_token called_off) {
  const Config config = checked_config(given);
  CallOff interrupt(std::move(called_off));
  SessionParts parts = connect_launched(config, interrupt);
  complete(parts);
  if (parts.topology.local_rank == 0) warn_of_settings(config);
  if (!parts.report.shared_memory.empty() && parts.topology.rank == 0) {
    log_warning("ranks of one host do not share memory, so messages carry their data: " +
                parts.report.shared_memory);
  }
  return parts;
}

SessionParts connect_over(Bootstrap& bootstrap, const Config& config) {
  SessionParts parts;
  if (bootstrap.size() == 1) {
    parts = connect_alone(config);
  } else {
    parts.config = config;
    connect_over_sockets(parts, bootstrap);
  }
  parts.report.launcher = "a session of more ranks";
  complete(parts);
  return parts;
}

}  // namespace scalecom
