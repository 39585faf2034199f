// The state machine of batches on an accelerator, DeviceExecution, of all ranks in one thread: who
// moves next, rank, device or application, comes from a seed, and so do the batches.
#include <fmt/format.h>

#include <iostream>
#include <set>

#include "base/log.hpp"
#include "tests/sim/device_simulation.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/seeds.hpp"

using namespace scalecom;
using namespace scalecom::sim;

namespace {

/// What all runs together have met, so that none of it is missed unnoticed.
struct Coverage {
  DeviceRank::Counts all;
  std::size_t draws = 0;
  std::set<OperationKind> kinds;
  bool has_averages = false;  ///< inside hosts
  bool is_of_many = false;    ///< a seed that was given need not meet it all

  void add(const DeviceSimulation& simulation, const DevicePlan& plan) {
    draws += simulation.draws();
    const bool has_pairs = std::set(plan.host_of_rank.begin(), plan.host_of_rank.end()).size() <
                           plan.host_of_rank.size();
    for (const PlannedTensor& tensor : plan.tensors) {
      const TensorSignature& signature = tensor.signature;
      kinds.insert(signature.kind);
      const bool is_hierarchical = signature.compression.mode == CompressionMode::hierarchical;
      has_averages = has_averages || (is_hierarchical && has_pairs);
    }
    for (int rank = 0; rank < plan.size; ++rank) {
      const DeviceRank::Counts counts = simulation.rank(rank).counts();
      all.batches += counts.batches;
      all.refused += counts.refused;
      all.aborted_within += counts.aborted_within;
      all.aborted_calls += counts.aborted_calls;
      all.overlaps += counts.overlaps;
      all.aborted_measuring += counts.aborted_measuring;
      all.samples += counts.samples;
      all.measured += counts.measured;
      all.results += counts.results;
    }
  }
};

std::unique_ptr<DeviceSimulation> run(const DevicePlan& plan) {
  configure_log(LogLevel::fatal, 0);  // What is short or fails is the plan's.
  auto simulation = std::make_unique<DeviceSimulation>(plan);
  simulation->run();
  return simulation;
}

Coverage run_seeds(DeviceFault fault, std::uint64_t seeds) {
  Coverage coverage;
  const std::vector<std::uint64_t> chosen = test::choose_seeds(seeds);
  coverage.is_of_many = chosen.size() > 1;
  for (const std::uint64_t seed : chosen) {
    const DevicePlan plan = make_device_plan(seed, fault);
    const auto simulation = run(plan);
    INFO(plan.description());
    std::string wrong;
    for (const std::string& line : simulation->violations()) wrong += line + "\n";
    REQUIRE(wrong == "");
    coverage.add(*simulation, plan);
  }
  std::cout << fmt::format("{} batches, {} results in {} draws\n", coverage.all.batches,
                           coverage.all.results, coverage.draws);
  return coverage;
}

}  // namespace

TEST_CASE("batches on devices give the host's bits, whoever moves when") {
  const Coverage coverage = run_seeds(DeviceFault::none, 20);
  CHECK((coverage.kinds.size() == 5 || !coverage.is_of_many));
  CHECK((coverage.has_averages || !coverage.is_of_many));
  CHECK((coverage.all.measured > 0 || !coverage.is_of_many));
  CHECK((coverage.all.samples > 0 || !coverage.is_of_many));
  CHECK((coverage.all.overlaps > 0 || !coverage.is_of_many));
}

TEST_CASE("batches for which a device has no memory wait for those before") {
  const Coverage coverage = run_seeds(DeviceFault::shortage, 10);
  CHECK((coverage.all.refused > 0 || !coverage.is_of_many));
}

TEST_CASE("a rank that is lost leaves nobody waiting") {
  const auto fault = GENERATE(DeviceFault::silent_rank, DeviceFault::failing_rank,
                              DeviceFault::no_memory, DeviceFault::device_error);
  const Coverage coverage = run_seeds(fault, 24);
  CHECK((coverage.kinds.size() == 5 || !coverage.is_of_many));
  CHECK((coverage.has_averages || !coverage.is_of_many));
  CHECK((coverage.all.aborted_within > 0 || !coverage.is_of_many));
  CHECK((coverage.all.aborted_calls > 0 || !coverage.is_of_many));
  // Who has no memory to measure with says so, and goes on.
  const bool ends_measuring = fault != DeviceFault::no_memory;
  CHECK((coverage.all.aborted_measuring > 0 || !ends_measuring || !coverage.is_of_many));
}

TEST_CASE("a seed gives one interleaving") {
  const std::uint64_t seed = GENERATE(3, 4);
  const auto log_of = [seed](DeviceFault fault) {
    const DevicePlan plan = make_device_plan(seed, fault);
    return run(plan)->log();
  };
  const auto fault = GENERATE(DeviceFault::none, DeviceFault::shortage, DeviceFault::silent_rank);
  const std::string once = log_of(fault);
  CHECK(once.size() > 1000);
  CHECK(once == log_of(fault));
}
