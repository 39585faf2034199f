// The only place that reads the environment.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "runtime/launch.hpp"
#include "runtime/settings.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

// Each launcher sets one of these in the processes it starts: Open MPI, MPICH and Intel MPI, and
// Slurm's PMIx. The first two give the number of ranks.
constexpr std::array kSizeVariables{"OMPI_COMM_WORLD_SIZE", kMpichVariable};
constexpr const char* kPmixVariable = "PMIX_RANK";
// torchrun sets it.
constexpr const char* kRunVariable = "TORCHELASTIC_RUN_ID";
// srun sets it in a step's processes, from which others that they start have it.
constexpr const char* kStepSizeVariable = "SLURM_STEP_NUM_TASKS";
constexpr const char* kStepRankVariable = "SLURM_PROCID";
constexpr int kRanksMax = 1 << 20;
// Below those that systems give away.
constexpr int kStepPortMin = 10000;
constexpr int kStepPorts = 20000;

// Set to the empty string is not set, as for Horovod.
const char* read_variable(const std::string& variable) {
  const char* value = std::getenv(variable.c_str());
  return value != nullptr && *value != '\0' ? value : nullptr;
}

// XDG Base Directory Specification: a relative path does not count.
std::string find_cache_directory() {
  const char* cache = read_variable("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/scalecom";
  const char* home = read_variable("HOME");
  if (home != nullptr && *home == '/') return std::string(home) + "/.cache/scalecom";
  return {};
}

// Nothing where it is not set.
std::optional<int> read_number(const char* variable, int min, int max) {
  const char* text = read_variable(variable);
  if (text == nullptr) return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stopped, error] = std::from_chars(text, end, value);
  if (error == std::errc() && stopped == end && value >= min && value <= max) return value;
  throw Error(StatusCode::invalid_argument,
              fmt::format("{}={} is not allowed; allowed: {} to {}", variable, text, min, max));
}

std::string read_text(const char* variable) {
  const char* text = read_variable(variable);
  return text != nullptr ? text : "";
}

// Scripts set WORLD_SIZE for srun's processes, which have their ranks from that.
bool is_rank_left_to_srun(int world_size) {
  return read_variable(kStepRankVariable) != nullptr &&
         read_number(kStepSizeVariable, 1, kRanksMax) == world_size;
}

// Zero where it is none.
std::uint64_t number_of(const std::string& text) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// Of a list as Slurm writes it: node07 of "node[07-12,15],other".
std::string first_host(std::string_view hosts) {
  std::string name;
  while (!hosts.empty() && hosts.front() != ',') {
    const bool is_range = hosts.front() == '[';
    if (!is_range) name += hosts.front();
    hosts.remove_prefix(1);
    if (!is_range) continue;
    name += hosts.substr(0, hosts.find_first_of(",-]"));
    hosts.remove_prefix(std::min(hosts.find(']'), hosts.size() - 1) + 1);
  }
  return name;
}

// Slurm orders a step's hosts by name: rank 0 may be on another than the first where the user has
// written down which host has which rank, and where a job has several components.
bool is_rank_0_on_first_host() {
  return !read_text("SLURM_DISTRIBUTION").starts_with("arbitrary") &&
         read_number("SLURM_HET_SIZE", 0, kRanksMax).value_or(1) < 2;
}

}  // namespace

std::vector<std::string> environment_names() {
  std::vector<std::string> names;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    names.emplace_back(*entry, std::strcspn(*entry, "="));
  }
  return names;
}

bool nccl_may_share_a_gpu(bool has_switch) {
  return read_variable("NCCL_HOSTID") != nullptr ||
         (has_switch && read_text("NCCL_MULTI_RANK_GPU_ENABLE") == "1");
}

bool is_nccl_blocking_set() { return read_variable("NCCL_COMM_BLOCKING") != nullptr; }

void offer_nccl_tuner(const std::string& library) {
  constexpr int kKeep = 0;
  if (!library.empty()) setenv("NCCL_TUNER_PLUGIN", library.c_str(), kKeep);
}

MpiLaunch find_mpi_launch() {
  if (read_variable(kRunVariable) != nullptr) return {};
  for (const char* variable : kSizeVariables) {
    if (const char* size = read_variable(variable)) return {variable, std::atoi(size)};
  }
  if (read_variable(kPmixVariable) == nullptr) return {};
  // Others with PMIx, as prun inside of a step, start as many as they like.
  const bool is_srun = read_text("PMIX_NAMESPACE").starts_with("slurm.pmix.");
  const std::optional<int> size = read_number(kStepSizeVariable, 1, kRanksMax);
  return {kPmixVariable, is_srun ? size.value_or(0) : 0};
}

std::optional<RankLaunch> find_rank_launch() {
  const std::optional<int> size = read_number("WORLD_SIZE", 1, kRanksMax);
  const std::optional<int> rank = read_number("RANK", 0, size.value_or(kRanksMax) - 1);
  if (!rank && (!size || is_rank_left_to_srun(*size))) return std::nullopt;
  if (!rank || !size) {
    throw Error(StatusCode::invalid_argument,
                fmt::format("{} is set and {} is not; a rank of a job started without MPI needs "
                            "both, as torchrun sets them; one process alone needs neither",
                            rank ? "RANK" : "WORLD_SIZE", rank ? "WORLD_SIZE" : "RANK"));
  }
  RankLaunch launch;
  launch.rank = *rank;
  launch.size = *size;
  launch.master_address = read_text("MASTER_ADDR");
  launch.master_port = read_number("MASTER_PORT", 1, 65535).value_or(0);
  if (const std::optional<int> local_size = read_number("LOCAL_WORLD_SIZE", 1, kRanksMax)) {
    launch.hosts = local_size == size ? HostSpread::one : HostSpread::several;
  }
  if (const std::string run = read_text(kRunVariable); !run.empty()) {
    launch.attempt = run + "/" + read_text("TORCHELASTIC_RESTART_COUNT");
    launch.launcher = fmt::format("torchrun ({})", kRunVariable);
  }
  return launch;
}

std::optional<RankLaunch> find_slurm_launch() {
  const std::optional<int> size = read_number(kStepSizeVariable, 1, kRanksMax);
  if (!size || read_variable(kStepRankVariable) == nullptr) return std::nullopt;
  RankLaunch launch;
  launch.launcher = fmt::format("srun ({})", kStepRankVariable);
  launch.size = *size;
  if (*size == 1) return launch;  // It meets nobody.
  launch.rank = read_number(kStepRankVariable, 0, *size - 1).value();
  const std::string job = read_text("SLURM_JOB_ID");
  const std::string step = read_text("SLURM_STEP_ID");
  const auto port =
      static_cast<int>(kStepPortMin + (number_of(job) + number_of(step)) % kStepPorts);
  const int hosts = read_number("SLURM_STEP_NUM_NODES", 1, kRanksMax).value_or(*size);
  launch.master_address = read_text("MASTER_ADDR");
  launch.master_port = read_number("MASTER_PORT", 1, 65535).value_or(port);
  launch.hosts = hosts == 1 ? HostSpread::one : HostSpread::several;
  if (launch.master_address.empty() && (hosts == 1 || is_rank_0_on_first_host())) {
    launch.master_address = first_host(read_text("SLURM_STEP_NODELIST"));
  }
  launch.attempt = fmt::format("{}.{}", job, step);
  launch.advice = fmt::format(
      "srun's step has {} tasks; a process that is to be alone sets RANK=0 and WORLD_SIZE=1",
      *size);
  return launch;
}

Config Config::from_environment() {
  Config config;
  config.cache_directory = find_cache_directory();
  for (const Setting& setting : settings_table()) {
    for (const char* prefix : {"SCALECOM_", "HOROVOD_"}) {
      const std::string variable = prefix + setting.name;
      const char* value = read_variable(variable);
      if (value == nullptr) continue;
      if (!setting.parse(config, value)) refuse_value(setting, variable, value);
      config.sources[setting.name] = variable;
      break;
    }
  }
  return config;
}

}  // namespace scalecom
