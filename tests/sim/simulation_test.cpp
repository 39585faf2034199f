#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/lost_rank.hpp"
#include "tests/sim/workload.hpp"
#include "tests/sim/world.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/seeds.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

/// Everything about a run follows from its seed.
struct Scenario {
  WorldOptions world;
  WorkloadOptions workload;
};

Scenario make_scenario(std::uint64_t seed, int size_max) {
  Random random(seed * 7919 + 1);
  Scenario scenario;
  WorldOptions& world = scenario.world;
  world.seed = seed;
  const int scale = draw(random, 0, 2);
  world.size = scale == 0 ? draw(random, 1, 5) : draw(random, 1, scale == 1 ? 24 : size_max);
  world.negotiation.cache_capacity = pick<std::int64_t>(random, {0, 1, 2, 5, 11, 1000});
  world.negotiation.cycle_time_ms = pick(random, {-1.0, 0.0, 0.5, 5.0});
  world.negotiation.fusion_threshold_bytes = pick<std::int64_t>(random, {0, 4000, 128 << 20});
  world.negotiation.stall_check_time_s = pick(random, {0.002, 60.0});
  world.negotiation.steady_steps = pick(random, {0, 1, 2, 3});
  world.delay_max = pick<Duration>(random, {20us, 200us, 5ms});
  world.execution_max = pick<Duration>(random, {0us, 500us});
  world.duplicates = pick(random, {0.0, 0.05});
  WorkloadOptions& workload = scenario.workload;
  const int budget = std::max(20'000 / world.size, 30);  // calls of a rank
  workload.tensors = draw(random, 1, std::min(40, budget / 3));
  workload.calls = std::clamp(budget / workload.tensors, 2, draw(random, 2, 30));
  workload.is_pipelined = draw(random, 0, 1) == 1;
  workload.bursts = pick(random, {0.0, 0.7, 1.0});
  if (draw(random, 0, 3) == 0) {
    workload.late_rank = draw(random, 0, world.size - 1);
    workload.late_by = 30ms;
  }
  return scenario;
}

std::string describe(const Scenario& scenario) {
  return fmt::format("seed {} (again with --rng-seed {}): {} ranks, {} tensors, {} calls, cache {}",
                     scenario.world.seed, scenario.world.seed, scenario.world.size,
                     scenario.workload.tensors, scenario.workload.calls,
                     scenario.world.negotiation.cache_capacity);
}

std::string join(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

void require_sound(const Scenario& scenario, const World& world) {
  INFO(describe(scenario));
  REQUIRE(join(world.violations()) == "");
}

/// A random time while the workload runs.
Duration random_time(World& world) { return world.random_duration(30ms); }

void run_without_fault(std::uint64_t seed, int size_max) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Workload workload(world, scenario.workload);
  workload.start();
  world.run();
  world.check_drained(false);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (world.completions(rank) != workload.calls_per_rank()) {
      world.violate(fmt::format("rank {} completed {} of {} calls", rank, world.completions(rank),
                                workload.calls_per_rank()));
    }
  }
  require_sound(scenario, world);
}

void run_with_shutdown(std::uint64_t seed, int size_max) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Workload workload(world, scenario.workload);
  workload.start();
  std::set<std::string> causes;
  for (int i = draw(world.random(), 1, 3); i > 0; --i) {
    const int rank = draw(world.random(), 0, world.size() - 1);
    const std::string cause = fmt::format("rank {} called shutdown()", rank);
    causes.insert(cause);
    world.at(rank, random_time(world), [&world, rank, cause] {
      world.end_session(rank, Status(StatusCode::shut_down, cause));
    });
  }
  world.run();
  world.check_drained(true);
  // One cause, and the same decisions before it, everywhere.
  for (int rank = 0; rank < world.size() && world.end_of(rank); ++rank) {
    if (world.end_of(rank) != world.end_of(0) || world.decisions(rank) != world.decisions(0)) {
      world.violate(fmt::format("rank {} ends otherwise than rank 0: {}", rank,
                                world.end_of(rank)->message()));
    }
    if (causes.count(world.end_of(rank)->message()) == 0) {
      world.violate("nobody gave the cause " + world.end_of(rank)->message());
    }
  }
  if (world.forced_ends() > 0) world.violate("what was agreed on before the end did not complete");
  require_sound(scenario, world);
}

void run_with_losses(std::uint64_t seed, int size_max, bool has_shutdown) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Workload workload(world, scenario.workload);
  workload.start();
  std::set<std::string> causes;
  const int losses = draw(world.random(), 1, 2);
  for (int i = 0; i < losses; ++i) {
    const int rank = draw(world.random(), 0, world.size() - 1);
    causes.insert(lost_rank(rank, "connection closed").what());
    world.at(rank, random_time(world), [&world, rank] { world.kill(rank); });
  }
  if (has_shutdown) {
    const int rank = draw(world.random(), 0, world.size() - 1);
    causes.insert("bye");
    world.at(rank, random_time(world),
             [&world, rank] { world.end_session(rank, Status(StatusCode::shut_down, "bye")); });
  }
  const TimePoint start = world.now();
  world.run();
  world.check_drained(true);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (!world.is_alive(rank) || !world.end_of(rank)) continue;
    if (causes.count(world.end_of(rank)->message()) == 0) {
      world.violate(
          fmt::format("rank {} gives a wrong cause: {}", rank, world.end_of(rank)->message()));
    }
  }
  if (world.last_end() - start > 5s) world.violate("the end took more than 5 s");
  require_sound(scenario, world);
}

void run_with_failure(std::uint64_t seed, int size_max) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Workload workload(world, scenario.workload);
  workload.start();
  const int rank = draw(world.random(), 0, world.size() - 1);
  const Status cause(StatusCode::timed_out, "a collective took too long");
  world.at(rank, random_time(world), [&world, rank, cause] { world.end_session(rank, cause); });
  world.run();
  world.check_drained(true);
  for (int other = 0; other < world.size(); ++other) {
    if (world.end_of(other) && world.end_of(other) != cause) {
      world.violate(
          fmt::format("rank {} gives a wrong cause: {}", other, world.end_of(other)->message()));
    }
  }
  require_sound(scenario, world);
}

void run_all(std::uint64_t count, int size_max) {
  for (const std::uint64_t seed : test::choose_seeds(count)) {
    run_without_fault(seed, size_max);
    run_with_shutdown(seed, size_max);
    run_with_losses(seed, size_max, false);
    run_with_losses(seed, size_max, true);
    run_with_failure(seed, size_max);
  }
}

}  // namespace

TEST_CASE("every tensor completes once and in one order, whatever is late, lost or shut down") {
  run_all(test::seeds_of(60), 256);
}

TEST_CASE("every tensor completes once and in one order, many more seeds", "[slow]") {
  run_all(1500, 256);
}
