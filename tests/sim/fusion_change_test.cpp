// Fusion settings that change while the session runs.
#include <limits>

#include "runtime/negotiation/messages.hpp"
#include "runtime/negotiation/wire.hpp"
#include "tests/sim/scheduled_pair.hpp"
#include "tests/sim/small_world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

constexpr FusionSettings kOneEach{16, 0.0};
const std::string kChange = "fusion: 16 bytes, 0 ms";

void run_steps(World& world, int steps) {
  for (int step = 0; step < steps; ++step) {
    submit_everywhere(world, "a", all_reduce());
    submit_everywhere(world, "b", all_reduce());
    world.run(10ms);
  }
}

int agreements_of_a_step(World& world) {
  const int before = world.agreements(world.size() - 1);
  run_steps(world, 1);
  return world.agreements(world.size() - 1) - before;
}

std::size_t count_changes(const World& world, int rank) {
  const Log log = world.log_of(rank);
  return static_cast<std::size_t>(std::count(log.begin(), log.end(), kChange));
}

void require_sound(World& world) {
  world.check_drained(false);
  REQUIRE(world.violations() == Log{});
}

std::string end_of(Negotiation& node) {
  for (const NegotiationEvent& event : node.take_events()) {
    if (const auto* end = std::get_if<SessionEnd>(&event)) return end->status.message();
  }
  return "no end";
}

std::string fusion_item(std::int64_t threshold_bytes, double cycle_time_ms) {
  negotiation::Writer writer;
  writer.put_enum(negotiation::DownItem::fusion);
  writer.put_signed(threshold_bytes);
  writer.put_double(cycle_time_ms);
  return writer.take();
}

}  // namespace

TEST_CASE("all ranks fuse otherwise from one place of the order on") {
  WorldOptions options = steady(GENERATE(1, 2, 16, 40));
  World world(options);
  run_steps(world, 2);
  CHECK(agreements_of_a_step(world) == 1);
  world.change_fusion(kOneEach);
  CHECK(agreements_of_a_step(world) == 2);
  CHECK(agreements_of_a_step(world) == 2);
  require_sound(world);
  for (int rank = 0; rank < world.size(); ++rank) CHECK(count_changes(world, rank) == 1);
}

TEST_CASE("a change ends the steady state, which then repeats what was learnt with the new ones") {
  WorldOptions options = steady(GENERATE(2, 16, 40));
  options.negotiation.steady_steps = 3;
  World world(options);
  run_steps(world, 6);
  const int last = world.size() - 1;
  REQUIRE(world.steady(last).agreements > 0);
  world.change_fusion({1 << 20, 1.0});
  world.change_fusion(kOneEach);
  run_steps(world, 4);
  require_sound(world);
  CHECK(world.log_of(last).size() == 2 * 10 + 1);
  CHECK(count_changes(world, last) == 1);
  CHECK(world.steady(last).leaves == 1);
  CHECK_THAT(world.steady(last).last_reason, Contains("rank 0 changes the fusion settings"));

  const std::int64_t scheduled = world.steady(last).agreements;
  const std::int64_t messages = world.traffic(last).messages;
  CHECK(agreements_of_a_step(world) == 2);
  CHECK(world.steady(last).agreements == scheduled + 2);
  CHECK(world.traffic(last).messages == messages);
  require_sound(world);
}

TEST_CASE("steps before a change count for no schedule behind it") {
  WorldOptions options = steady(2);
  options.negotiation.steady_steps = 3;
  World world(options);
  run_steps(world, 3);
  world.change_fusion(kOneEach);
  run_steps(world, 3);
  CHECK(world.steady(0).agreements == 0);
  run_steps(world, 3);
  CHECK(world.steady(0).agreements > 0);
  require_sound(world);
}

TEST_CASE("schedules that were left for changes need no more steps to learn than others") {
  WorldOptions options = steady(2);
  options.negotiation.steady_steps = 2;
  World world(options);
  run_steps(world, 4);
  for (int change = 0; change < 6; ++change) {
    world.change_fusion({16 + change, 0.0});
    run_steps(world, 4);
    CHECK(world.steady(1).leaves == change + 1);
  }
  require_sound(world);
}

TEST_CASE("the cycle time changes as well") {
  World world(steady(2));
  const auto time_of_a = [&world](const std::string& partial) {
    world.submit(0, partial, all_reduce());
    const TimePoint start = world.now();
    submit_everywhere(world, "a", all_reduce());
    world.run(50ms);
    return world.last_decision() - start;
  };
  CHECK(time_of_a("b") < 3ms);
  world.change_fusion({128 << 20, 20.0});
  CHECK(time_of_a("c") > 10ms);
  world.change_fusion({128 << 20, kAdaptiveCycleTime});
  CHECK(time_of_a("d") < 3ms);
  CHECK(world.violations() == Log{});
}

TEST_CASE("settings that cannot be, or beside a schedule, are refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    std::string item;
    const char* text;
  };
  const Case cases[] = {{fusion_item(-1, 0.0), "threshold of -1 bytes"},
                        {fusion_item((std::int64_t{1} << 40) + 1, 0.0), "are not allowed"},
                        {fusion_item(0, -2.0), "cycle time of -2 ms"},
                        {fusion_item(0, 10'001.0), "cycle time of 10001 ms"},
                        {fusion_item(0, nan), "cycle time of nan ms"},
                        {fusion_item(0, 1.0).substr(0, 5), "inside a floating-point number"},
                        {fusion_item(0, 1.0), "no end"}};
  for (const Case& one : cases) {
    Negotiation leaf({.rank = 1, .size = 2});
    leaf.receive(0, "\x01" + one.item, TimePoint{1000s});
    CHECK_THAT(end_of(leaf), Contains(one.text));
  }
  ScheduledPair pair;
  pair.leaf.receive(0, static_cast<char>(pair.frames_down + 1) + fusion_item(0, 1.0), pair.now);
  CHECK_THAT(end_of(pair.leaf), Contains("while a schedule does"));
}
