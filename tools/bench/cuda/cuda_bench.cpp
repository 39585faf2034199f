// scalecom-cuda-bench: how close the CUDA passes come to a device-to-device copy.
//
// All workloads take turns in rounds, in random order; the table gives medians with least and most,
// and the share of the copy's bandwidth in the same rounds. Bytes are those that a pass has to
// move: 12 an element for a sweep of float32 (read g, read m, write m), 16 with the result. Inputs
// are larger than the cache, or take turns.
//
// Then what a batch of 100 tensors takes call by call and as one CUDA graph, in microseconds:
// "host", until all is enqueued while the device is busy; "device", from its first kernel to its
// last, all enqueued before; "both", from the call until the results are there on an idle device.
// "Arguments anew" sets those of all kernels before each launch, as a batch in other memory has to.
// What goes between ranks is no part of it: the graph is the most that one could save.

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "device/cuda/error.hpp"
#include "scalecom/status.hpp"
#include "tools/bench/cuda/graphs.hpp"
#include "tools/bench/cuda/workloads.hpp"

namespace {

using namespace scalecom;
using bench::Measured;
using bench::Workload;

struct Options {
  std::int64_t count = 100'000'000;
  int rounds = 30;
  std::string filter;
  std::string json;
};

nlohmann::json describe_device() {
  int device = 0;
  int runtime = 0;
  int driver = 0;
  cudaDeviceProp properties{};
  device::cuda::check(cudaGetDevice(&device), "cudaGetDevice");
  device::cuda::check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  device::cuda::check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  device::cuda::check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  return {{"name", properties.name},
          {"compute_capability", fmt::format("{}.{}", properties.major, properties.minor)},
          {"multiprocessors", properties.multiProcessorCount},
          {"l2_bytes", properties.l2CacheSize},
          {"cuda_runtime", runtime},
          {"cuda_of_driver", driver}};
}

double bandwidth(const Workload& workload, double ms) { return workload.bytes / ms / 1e6; }

nlohmann::json report(const std::vector<Workload>& workloads,
                      const std::vector<Measured>& measured) {
  double copy = 0.0;
  for (std::size_t i = 0; i < workloads.size(); ++i) {
    if (workloads[i].name == bench::kCopyName) copy = bandwidth(workloads[i], measured[i].median);
  }
  nlohmann::json rows = nlohmann::json::array();
  fmt::print("{:50} {:>9} {:>9} {:>9} {:>8} {:>8}\n", "workload", "ms", "least", "most", "GB/s",
             "of copy");
  for (std::size_t i = 0; i < workloads.size(); ++i) {
    const Measured& m = measured[i];
    const double rate = bandwidth(workloads[i], m.median);
    const double share = copy > 0.0 ? rate / copy : 0.0;
    fmt::print("{:50} {:9.4f} {:9.4f} {:9.4f} {:8.0f} {:7.1f}%\n", workloads[i].name, m.median,
               m.least, m.most, rate, 100.0 * share);
    rows.push_back({{"name", workloads[i].name},
                    {"bytes", workloads[i].bytes},
                    {"ms", m.median},
                    {"ms_least", m.least},
                    {"ms_most", m.most},
                    {"gb_s", rate},
                    {"of_copy", share}});
  }
  return rows;
}

/// Not at the cost of what was measured before.
nlohmann::json try_graphs(int rounds) {
  try {
    return bench::measure_graphs(rounds);
  } catch (const Error& error) {
    fmt::print("CUDA graphs: {}\n", error.what());
    return {{"problem", error.what()}};
  }
}

void run(const Options& options) {
  const auto tensors = bench::make_tensors(options.count);
  std::vector<Workload> workloads;
  for (auto make : {bench::large_workloads, bench::many_tensors_workloads, bench::pack_workloads}) {
    for (Workload& workload : make(tensors)) {
      const bool is_wanted = workload.name == bench::kCopyName ||
                             workload.name.find(options.filter) != std::string::npos;
      if (is_wanted) workloads.push_back(std::move(workload));
    }
  }
  const nlohmann::json device = describe_device();
  fmt::print("{}, {} elements, {} rounds\n\n", device["name"].get<std::string>(), options.count,
             options.rounds);
  const nlohmann::json rows = report(workloads, bench::measure(workloads, options.rounds));
  const nlohmann::json graphs = try_graphs(10 * options.rounds);
  if (options.json.empty()) return;
  std::ofstream(options.json) << nlohmann::json{{"device", device},
                                                {"count", options.count},
                                                {"rounds", options.rounds},
                                                {"rows", rows},
                                                {"graphs_us", graphs}}
                                     .dump(1)
                              << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"How close the CUDA passes come to a device-to-device copy"};
  app.add_option("--count", options.count, "Elements of the large tensor")
      ->check(CLI::Range(std::int64_t{60'000'000}, std::int64_t{1} << 33));
  app.add_option("--rounds", options.rounds, "Rounds")->check(CLI::Range(1, 10000));
  app.add_option("--filter", options.filter, "Only workloads with this in their names");
  app.add_option("--json", options.json, "File for the report");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const Error& error) {
    fmt::print(stderr, "scalecom-cuda-bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
