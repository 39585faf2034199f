// The only place that reads the environment.

#include <fmt/format.h>

#include <array>
#include <cstdlib>

#include "runtime/launch.hpp"
#include "runtime/settings.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

// Each launcher sets one of these in the processes it starts: Open MPI, MPICH and Intel MPI, and
// Slurm's PMIx. The first two give the number of ranks.
constexpr std::array kSizeVariables{"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
constexpr const char* kRankVariable = "PMIX_RANK";

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

}  // namespace

MpiLaunch find_mpi_launch() {
  for (const char* variable : kSizeVariables) {
    if (const char* size = read_variable(variable)) return {variable, std::atoi(size)};
  }
  if (read_variable(kRankVariable) != nullptr) return {kRankVariable, 0};
  return {};
}

Config Config::from_environment() {
  Config config;
  config.cache_directory = find_cache_directory();
  for (const Setting& setting : settings_table()) {
    for (const char* prefix : {"SCALECOM_", "HOROVOD_"}) {
      const std::string variable = prefix + setting.name;
      const char* value = read_variable(variable);
      if (value == nullptr) continue;
      if (!setting.parse(config, value)) {
        throw Error(
            StatusCode::invalid_argument,
            fmt::format("{}={} is not allowed; allowed: {}{}", variable, value, setting.allowed,
                        setting.unit.empty() ? "" : " (" + setting.unit + ")"));
      }
      config.sources[setting.name] = variable;
      break;
    }
  }
  return config;
}

}  // namespace scalecom
