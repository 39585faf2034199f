// Trainings that repeat their steps, and leave them in every way, on many ranks and from many
// seeds.
#include "tests/sim/training.hpp"
#include "base/lost_rank.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iostream>

#include "tests/sim/random.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/seeds.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

struct Scenario {
  WorldOptions world;
  TrainingOptions training;
};

Scenario make_scenario(std::uint64_t seed, int size_max) {
  Random random(seed * 6007 + 3);
  Scenario scenario;
  WorldOptions& world = scenario.world;
  world.seed = seed;
  const int scale = draw(random, 0, 9);
  world.size = scale < 5   ? draw(random, 2, 5)
               : scale < 8 ? draw(random, 1, 24)
                           : draw(random, 1, scale == 8 ? 64 : size_max);
  world.negotiation.steady_steps = pick(random, {1, 2, 3});
  world.negotiation.cycle_time_ms = pick(random, {-1.0, 0.0, 0.5});
  world.negotiation.fusion_threshold_bytes = pick<std::int64_t>(random, {0, 4000, 128 << 20});
  world.negotiation.stall_check_time_s = pick(random, {0.02, 60.0, 60.0});
  world.negotiation.cache_capacity = pick<std::int64_t>(random, {12, 1000, 1000});
  world.delay_max = pick<Duration>(random, {20us, 200us, 2ms});
  world.execution_max = pick<Duration>(random, {0us, 100us, 1ms});
  world.duplicates = pick(random, {0.0, 0.05});
  TrainingOptions& training = scenario.training;
  training.tensors = draw(random, 1, 10);
  training.steps = std::max(draw(random, 20, 120) / (1 + world.size / 16), 12);
  training.deviations = pick(random, {0.0, 0.05, 0.1, 0.2});
  training.compressed = pick(random, {0.0, 0.5, 1.0});
  training.is_shuffled = draw(random, 0, 2) > 0;
  training.gap_max = pick<Duration>(random, {0us, 50us, 500us});
  training.compute_max = pick<Duration>(random, {0us, 300us, 2ms});
  training.pause_max = pick<Duration>(random, {10ms, 3s});
  return scenario;
}

std::string describe(const Scenario& scenario) {
  return fmt::format("seed {} (again with --rng-seed {}): {} ranks, {} tensors, {} steps",
                     scenario.world.seed, scenario.world.seed, scenario.world.size,
                     scenario.training.tensors, scenario.training.steps);
}

std::string join(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// Words of each reason to leave a schedule; the shutdown's last.
constexpr std::array kReasons = {"changes the fusion settings",
                                 "none of the schedule's",
                                 "every rank has submitted",
                                 "instead of",
                                 "restored",
                                 "has not submitted",
                                 "has not been executed",
                                 "the session is to end"};

/// What all runs together have met, so that none of it is missed unnoticed.
struct Coverage {
  std::int64_t scheduled = 0;
  std::int64_t void_agreements = 0;
  std::int64_t runs_with_returns = 0;  ///< that left the steady state more than once
  std::map<std::string, int> reasons;

  void add(const World& world) {
    std::int64_t leaves = 0;
    for (int rank = 0; rank < world.size(); ++rank) {
      const SteadyCounters& steady = world.steady(rank);
      scheduled += steady.agreements;
      leaves = std::max(leaves, steady.leaves);
      for (const char* reason : kReasons) {
        if (steady.last_reason.find(reason) != std::string::npos) ++reasons[reason];
      }
    }
    if (leaves > 1) ++runs_with_returns;
    void_agreements += static_cast<std::int64_t>(world.void_agreements());
  }

  void print(const std::string& runs) const {
    std::cout << runs << ": " << scheduled << " scheduled agreements, " << void_agreements
              << " void, " << runs_with_returns << " runs left the steady state more than once\n";
    for (const auto& [reason, count] : reasons)
      std::cout << "  " << reason << ": " << count << "\n";
  }
};

void require_sound(const Scenario& scenario, const World& world) {
  INFO(describe(scenario));
  REQUIRE(join(world.violations()) == "");
}

void finish_training(const Scenario& scenario, World& world, const Training& training,
                     Coverage& coverage) {
  world.run();
  world.check_drained(false);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (world.completions(rank) != training.calls_per_rank()) {
      world.violate(fmt::format("rank {} completed {} of {} calls", rank, world.completions(rank),
                                training.calls_per_rank()));
    }
  }
  coverage.add(world);
  require_sound(scenario, world);
}

void run_without_fault(std::uint64_t seed, int size_max, Coverage& coverage) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Training training(world, scenario.training);
  training.start();
  finish_training(scenario, world, training, coverage);
}

// Rank 0 tries other fusion settings meanwhile.
void run_with_changes(std::uint64_t seed, int size_max, Coverage& coverage) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Training training(world, scenario.training);
  training.start();
  for (int i = draw(world.random(), 1, 10); i > 0; --i) {
    const FusionSettings settings{pick<std::int64_t>(world.random(), {0, 16, 4000, 128 << 20}),
                                  pick(world.random(), {kAdaptiveCycleTime, 0.0, 0.5, 5.0})};
    world.at(0, world.random_duration(30ms), [&world, settings] { world.change_fusion(settings); });
  }
  finish_training(scenario, world, training, coverage);
}

void run_with_shutdown(std::uint64_t seed, int size_max, Coverage& coverage) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Training training(world, scenario.training);
  training.start();
  for (int i = draw(world.random(), 1, 2); i > 0; --i) {
    const int rank = draw(world.random(), 0, world.size() - 1);
    world.at(rank, world.random_duration(30ms),
             [&world, rank] { world.end_session(rank, Status(StatusCode::shut_down, "bye")); });
  }
  world.run();
  world.check_drained(true);
  for (int rank = 0; rank < world.size() && world.end_of(rank); ++rank) {
    if (world.end_of(rank) != Status(StatusCode::shut_down, "bye") ||
        world.decisions(rank) != world.decisions(0)) {
      world.violate(fmt::format("rank {} ends otherwise than rank 0: {}", rank,
                                world.end_of(rank)->message()));
    }
  }
  if (world.forced_ends() > 0) world.violate("what was agreed on before the end did not complete");
  coverage.add(world);
  require_sound(scenario, world);
}

void run_with_losses(std::uint64_t seed, int size_max, Coverage& coverage) {
  const Scenario scenario = make_scenario(seed, size_max);
  World world(scenario.world);
  Training training(world, scenario.training);
  training.start();
  std::vector<std::string> causes;
  const TimePoint start = world.now();
  for (int i = draw(world.random(), 1, 2); i > 0; --i) {
    const int rank = draw(world.random(), 0, world.size() - 1);
    causes.push_back(lost_rank(rank, "connection closed").what());
    world.at(rank, world.random_duration(30ms), [&world, rank] { world.kill(rank); });
  }
  if (draw(world.random(), 0, 2) == 0) {
    const int rank = draw(world.random(), 0, world.size() - 1);
    const Status cause = pick(world.random(), {Status(StatusCode::shut_down, "bye"),
                                               Status(StatusCode::timed_out, "too slow")});
    causes.push_back(cause.message());
    world.at(rank, world.random_duration(30ms),
             [&world, rank, cause] { world.end_session(rank, cause); });
  }
  world.run();
  world.check_drained(true);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (!world.is_alive(rank) || !world.end_of(rank)) continue;
    const std::string cause = world.end_of(rank)->message();
    if (std::count(causes.begin(), causes.end(), cause) == 0) {
      world.violate(fmt::format("rank {} gives a wrong cause: {}", rank, cause));
    }
  }
  if (world.last_end() - start > 5s) world.violate("the end took more than 5 s");
  coverage.add(world);
  require_sound(scenario, world);
}

void run_all(std::uint64_t count, int size_max) {
  Coverage whole;
  Coverage changes;
  Coverage shutdowns;
  Coverage losses;
  for (const std::uint64_t seed : test::choose_seeds(count)) {
    run_without_fault(seed, size_max, whole);
    run_with_changes(seed, size_max, changes);
    run_with_shutdown(seed, size_max, shutdowns);
    run_with_losses(seed, size_max, losses);
  }
  whole.print("without a fault");
  changes.print("with other fusion settings");
  shutdowns.print("with a shutdown");
  losses.print("with lost ranks");
  if (count < 100) return;  // One seed alone need not meet everything.
  for (const Coverage* runs : {&whole, &changes, &shutdowns, &losses}) {
    CHECK(runs->scheduled > 0);
    CHECK(runs->void_agreements > 0);
    CHECK(runs->runs_with_returns > 0);
  }
  CHECK(changes.reasons["changes the fusion settings"] > 0);
  for (const char* reason : kReasons) {
    CAPTURE(reason);
    if (reason == std::string("changes the fusion settings")) continue;
    const bool is_shutdown = std::string(reason) == kReasons.back();
    CHECK((is_shutdown ? shutdowns : whole).reasons[reason] > 0);
  }
}

}  // namespace

TEST_CASE("a training completes every call once, however it enters and leaves the steady state",
          "[training]") {
  run_all(test::seeds_of(300), 256);
}

TEST_CASE("a training completes every call once, many more seeds", "[training][slow]") {
  run_all(5000, 256);
}
