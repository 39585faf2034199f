#include "runtime/info.hpp"

#include <nlohmann/json.hpp>

#include "kernels/reduce.hpp"
#include "runtime/mpi_plugin.hpp"
#include "scalecom/version.hpp"
#include "scalecom_build_facts.hpp"

namespace scalecom {
namespace {

using nlohmann::json;

json describe_loadable() {
  const MpiPluginFacts mpi = probe_mpi_plugin();
  return {{"mpi", mpi.problem.empty() ? "yes" : "no (" + mpi.problem + ")"},
          {"mpi_library", mpi.library}};
}

json describe_session(const SessionReport& report, const Topology& topology) {
  return {
      {"launcher", report.launcher},
      {"transport", report.transport},
      {"collectives", report.collectives},
      {"shared_memory", report.shared_memory.empty() ? "yes" : "no (" + report.shared_memory + ")"},
      {"mpi_library", report.library},
      {"mpi_thread_level", report.thread_level},
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
                   {"cuda", build::kCuda},
                   {"nccl", build::kNccl}}},
                 {"loads", describe_loadable()},
                 {"simd_target", kernels::simd_target()}};
  for (const SettingReport& setting : describe_settings(config)) {
    object["settings"].push_back(to_json(setting));
  }
  if (report != nullptr && topology != nullptr) {
    object["session"] = describe_session(*report, *topology);
  }
  return object.dump();
}

}  // namespace scalecom
