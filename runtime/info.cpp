#include "runtime/info.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/json_line.hpp"
#include "device/nccl/api.hpp"
#include "kernels/accelerator.hpp"
#include "kernels/reduce.hpp"
#include "runtime/mpi_plugin.hpp"
#include "runtime/settings.hpp"
#include "scalecom/version.hpp"
#include "scalecom_build_facts.hpp"

namespace scalecom {
namespace {

using nlohmann::json;

std::string describe_cuda() {
  try {
    return fmt::format("{}", fmt::join(describe_cuda_devices(), ", "));
  } catch (const Error& error) {
    return fmt::format("no ({})", error.what());
  }
}

json describe_loadable(const Config& config) {
  const MpiPluginFacts mpi = probe_mpi_plugin();
  json loads{{"mpi", mpi.problem.empty() ? "yes" : "no (" + mpi.problem + ")"},
             {"mpi_library", mpi.library},
             {"cuda", describe_cuda()}};
  device::nccl::Facts nccl;
  std::string problem;
  try {
    nccl = device::nccl::probe({.named = config.nccl_library, .offered = config.nccl_offered});
  } catch (const Error& error) {
    problem = error.what();
  }
  loads["nccl"] =
      problem.empty() ? device::nccl::version_text(nccl.version) : "no (" + problem + ")";
  loads["nccl_library"] = nccl.path;
  loads["nccl_version"] = nccl.version;
  return loads;
}

json describe_session(const SessionReport& report, const Topology& topology) {
  return {
      {"launcher", report.launcher},
      {"transport", report.transport},
      {"collectives", report.collectives},
      {"shared_memory", report.shared_memory.empty() ? "yes" : "no (" + report.shared_memory + ")"},
      {"mpi_library", report.library},
      {"mpi_thread_level", report.thread_level},
      {"mpi_cuda_aware", report.cuda_aware},
      {"control_plane", report.control_plane},
      {"tuning_source", report.tuning_source},
      {"tuning", json::parse(report.tuning, nullptr, false)},
      {"rank", topology.rank},
      {"size", topology.size},
      {"local_rank", topology.local_rank},
      {"local_size", topology.local_size},
      {"cross_rank", topology.cross_rank},
      {"cross_size", topology.cross_size},
      {"is_homogeneous", topology.is_homogeneous},
      {"hosts", topology.hosts}};
}

json to_json(const SettingReport& setting) {
  return {{"variable", setting.variable},       {"value", setting.value},
          {"default", setting.default_value},   {"unit", setting.unit},
          {"allowed", setting.allowed},         {"source", setting.source},
          {"description", setting.description}, {"has_effect", setting.has_effect}};
}

}  // namespace

std::string describe_installation_json(const SessionReport* report, const Topology* topology,
                                       const Config& config) {
  json object = {{"version", kVersion},
                 {"build",
                  {{"type", build::kType},
                   {"compiler", build::kCompiler},
                   {"mpi", build::kMpi},
                   {"cuda", build::kCuda}}},
                 {"loads", describe_loadable(config)},
                 {"simd_target", kernels::simd_target()}};
  for (const SettingReport& setting : describe_settings(config)) {
    object["settings"].push_back(to_json(setting));
  }
  if (report != nullptr && topology != nullptr) {
    object["session"] = describe_session(*report, *topology);
  }
  return to_json_line(object);
}

}  // namespace scalecom
