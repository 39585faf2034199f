// Ranks that are out of data while others go on.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/lost_rank.hpp"
#include "tests/sim/small_world.hpp"
#include "tests/sim/uneven.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/seeds.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

struct Scenario {
  WorldOptions world;
  UnevenOptions uneven;
};

Scenario make_scenario(std::uint64_t seed) {
  Random random(seed * 6151 + 3);
  Scenario scenario;
  WorldOptions& world = scenario.world;
  world.seed = seed;
  const int scale = draw(random, 0, 2);
  world.size = draw(random, 1, scale == 0 ? 4 : scale == 1 ? 24 : 90);
  world.negotiation.cache_capacity = pick<std::int64_t>(random, {0, 2, 5, 1000});
  world.negotiation.cycle_time_ms = pick(random, {-1.0, 0.0, 0.5});
  world.negotiation.fusion_threshold_bytes = pick<std::int64_t>(random, {0, 4000, 128 << 20});
  world.negotiation.stall_check_time_s = pick(random, {0.002, 60.0});
  world.negotiation.steady_steps = pick(random, {0, 1, 2, 3});
  world.delay_max = pick<Duration>(random, {20us, 200us, 2ms});
  world.execution_max = pick<Duration>(random, {0us, 500us});
  world.duplicates = pick(random, {0.0, 0.05});
  UnevenOptions& uneven = scenario.uneven;
  uneven.tensors = draw(random, 1, 8);
  uneven.epochs = draw(random, 1, 4);
  uneven.has_all_reduces_only = draw(random, 0, 1) == 1;
  uneven.is_nearly_even = draw(random, 0, 2) > 0;
  uneven.steps_max = uneven.has_all_reduces_only ? 20 : 6;
  return scenario;
}

std::string lines_of(const World& world) {
  std::string text;
  for (const std::string& line : world.violations()) text += line + "\n";
  return text;
}

void require_sound(const Scenario& scenario, const World& world) {
  INFO(fmt::format("seed {} (again with --rng-seed {}): {} ranks, {} tensors, {} epochs",
                   scenario.world.seed, scenario.world.seed, scenario.world.size,
                   scenario.uneven.tensors, scenario.uneven.epochs));
  REQUIRE(lines_of(world) == "");
}

std::int64_t run_uneven(std::uint64_t seed) {
  const Scenario scenario = make_scenario(seed);
  World world(scenario.world);
  Uneven uneven(world, scenario.uneven);
  uneven.start();
  world.run();
  world.check_drained(false);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (world.completions(rank) == uneven.calls_of(rank)) continue;
    world.violate(fmt::format("rank {} completed {} of {} calls", rank, world.completions(rank),
                              uneven.calls_of(rank)));
  }
  if (uneven.ends() != world.size() * scenario.uneven.epochs) {
    world.violate(fmt::format("{} joins ended", uneven.ends()));
  }
  require_sound(scenario, world);
  return world.steady(0).leaves;
}

// A rank is lost, or shuts down, at any time.
void run_with_end(std::uint64_t seed, bool is_loss) {
  const Scenario scenario = make_scenario(seed);
  World world(scenario.world);
  Uneven uneven(world, scenario.uneven);
  uneven.start();
  const int rank = draw(world.random(), 0, world.size() - 1);
  const std::string cause = is_loss ? lost_rank(rank, "connection closed").what() : "bye";
  world.at(rank, world.random_duration(10ms), [&world, rank, is_loss] {
    if (is_loss) {
      world.kill(rank);
    } else {
      world.end_session(rank, Status(StatusCode::shut_down, "bye"));
    }
  });
  const TimePoint start = world.now();
  world.run();
  world.check_drained(true);
  for (int other = 0; other < world.size(); ++other) {
    if (!world.end_of(other) || world.end_of(other)->message() == cause) continue;
    world.violate(fmt::format("rank {} ends with: {}", other, world.end_of(other)->message()));
  }
  if (world.last_end() - start > 5s) world.violate("the end took more than 5 s");
  require_sound(scenario, world);
}

void run_all(std::uint64_t count) {
  std::int64_t leaves = 0;
  for (const std::uint64_t seed : test::choose_seeds(count)) {
    leaves += run_uneven(seed);
    run_with_end(seed, true);
    run_with_end(seed, false);
  }
  if (count > 50) CHECK(leaves > 10);  // Joins meet steady states.
}

TensorSignature on_device() {
  TensorSignature signature = all_reduce();
  signature.device = DeviceKind::cuda;
  return signature;
}

std::string refusal_of(const TensorSignature& signature) {
  World world(steady(3));
  world.join(1);
  world.run(1ms);
  world.expect("t", {.is_mismatch = true, .submitters = 2});
  world.submit(0, "t", signature);
  world.submit(2, "t", signature);
  world.run(1ms);
  CHECK(world.completions(0) == 1);
  CHECK(world.completions(2) == 1);
  CHECK(world.violations().empty());
  REQUIRE(world.log_of(0).size() == 1);
  return world.log_of(0)[0];
}

}  // namespace

TEST_CASE(
    "ranks join at any time, and all others' tensors complete with the right steps and rows") {
  run_all(test::seeds_of(150));
}

TEST_CASE("ranks join at any time, many more seeds", "[slow]") { run_all(4000); }

TEST_CASE("nobody waits for a rank that has joined, and all learn who was last") {
  World world(steady(20));  // A tree: 2 hops to some.
  for (int rank = 0; rank < 20; ++rank) {
    if (rank != 7) world.join(rank);
  }
  world.run(1ms);
  world.expect("w", {.submitters = 1, .of_joined = all_reduce()});
  world.submit(7, "w", all_reduce());
  world.run(1ms);
  CHECK(world.completions(7) == 1);
  world.join(7);
  world.run();
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  CHECK(world.log_of(12) == Log{"1: w step 0", "all have joined, rank 7 last"});
}

TEST_CASE("a rank that joins with a tensor in flight takes part in it with its own data") {
  World world(steady(2));
  world.submit(0, "w", all_reduce());
  world.join(0);
  world.run(1ms);
  CHECK(world.completions(0) == 0);
  world.submit(1, "w", all_reduce());
  world.run(1ms);
  CHECK(world.completions(0) == 1);
  world.join(1);
  world.run();
  world.check_drained(false);
  CHECK(world.violations() == Log{});
}

TEST_CASE("a rank that joins in the steady state ends it") {
  WorldOptions options = steady(3);
  options.negotiation.steady_steps = 2;
  options.execution_max = 100us;
  World world(options);
  for (int step = 0; step < 8; ++step) {
    submit_everywhere(world, "w", all_reduce());
    world.run(2ms);
  }
  REQUIRE(world.steady(0).agreements > 0);
  world.join(1);
  world.run(2ms);
  CHECK(world.steady(2).leaves == 1);
  CHECK_THAT(world.steady(2).last_reason, Contains("rank 1 has joined"));
  for (int i = 0; i < 9; ++i)
    world.expect("w", {.submitters = i < 8 ? 3 : 2, .of_joined = all_reduce()});
  world.submit(0, "w", all_reduce());
  world.submit(2, "w", all_reduce());
  world.run(2ms);
  CHECK(world.completions(0) == 9);
  world.join(0);
  world.join(2);
  world.run(2ms);
  // As before.
  for (int step = 0; step < 8; ++step) {
    submit_everywhere(world, "w", all_reduce());
    world.run(2ms);
  }
  CHECK(world.completions(1) == 16);
  CHECK(world.steady(1).agreements > 8);
  CHECK(world.violations() == Log{});
}

TEST_CASE("a broadcast from a rank that has joined fails where it was submitted") {
  TensorSignature broadcast = all_reduce();
  broadcast.kind = OperationKind::broadcast;
  broadcast.root = 1;
  CHECK_THAT(refusal_of(broadcast), Contains("rank 1, the root of this broadcast, has joined") &&
                                        Contains("from the rank that joins last"));
}

TEST_CASE("a CUDA tensor fails while a rank has joined that has used no CUDA device") {
  CHECK_THAT(refusal_of(on_device()), Contains("tensor t: it is on a CUDA device, and a rank has "
                                               "joined"));
}

TEST_CASE("ranks that have joined take part in CUDA tensors if each has a device") {
  for (const bool is_one_without : {false, true}) {
    // Below several nodes.
    World world(steady(40));
    for (int i = 0; i < 6; ++i) {
      world.expect("w", {});
      for (int rank = 0; rank < 40; ++rank) world.submit(rank, "w", on_device());
      world.run(1ms);
    }
    for (int rank = 20; rank < 40; ++rank) {
      const bool has_none = is_one_without && rank == 37;
      world.join(rank, has_none ? DeviceKind::host : DeviceKind::cuda);
    }
    world.run(1ms);
    world.expect("w", {.is_mismatch = is_one_without, .submitters = 20, .of_joined = on_device()});
    for (int rank = 0; rank < 20; ++rank) world.submit(rank, "w", on_device());
    world.run(1ms);
    CHECK(world.completions(0) == 7);
    CHECK(world.violations() == Log{});
    if (is_one_without) {
      CHECK_THAT(world.log_of(0).back(), Contains("a rank has joined that has used none"));
      continue;
    }
    CHECK(world.log_of(39) == world.log_of(0));
    for (int rank = 0; rank < 20; ++rank) world.join(rank, DeviceKind::cuda);
    world.run(1ms);
    // Next time each may be another one.
    world.join(3, DeviceKind::cuda);
    world.run(1ms);
    world.expect("w", {.submitters = 39, .of_joined = on_device()});
    for (int rank = 0; rank < 40; ++rank) {
      if (rank != 3) world.submit(rank, "w", on_device());
    }
    world.run(1ms);
    CHECK(world.violations() == Log{});
  }
}

TEST_CASE("a rank without a device that has joined alone below a node is found there") {
  World world(steady(40));
  world.join(39);
  world.expect("w", {.is_mismatch = true, .submitters = 39});
  for (int rank = 0; rank < 39; ++rank) world.submit(rank, "w", on_device());
  world.run(1ms);
  CHECK(world.completions(0) == 1);
  CHECK_THAT(world.log_of(0)[0], Contains("a rank has joined that has used none"));
  CHECK(world.violations() == Log{});
}

TEST_CASE("ranks that joined without a device may have one the next time") {
  World world(steady(40));
  for (int rank = 0; rank < 40; ++rank) world.join(rank);
  world.run(1ms);
  world.join(39, DeviceKind::cuda);
  world.expect("w", {.submitters = 39, .of_joined = on_device()});
  for (int rank = 0; rank < 39; ++rank) world.submit(rank, "w", on_device());
  world.run(1ms);
  CHECK(world.completions(0) == 1);
  CHECK(world.violations() == Log{});
}

TEST_CASE("a broadcast goes on while others than its root have joined") {
  TensorSignature broadcast = all_reduce();
  broadcast.kind = OperationKind::broadcast;
  for (const int joined : {0, 1, 2}) {
    for (int root = 0; root < 3; ++root) {
      if (root == joined) continue;
      broadcast.root = root;
      World world(steady(3));
      world.join(joined);
      world.run(1ms);
      world.expect("t", {.submitters = 2, .of_joined = broadcast});
      for (int rank = 0; rank < 3; ++rank) {
        if (rank != joined) world.submit(rank, "t", broadcast);
      }
      world.run(1ms);
      CHECK(world.completions(root) == 1);
      CHECK(world.violations() == Log{});
    }
  }
}

TEST_CASE("steps before a join count for no schedule behind it") {
  WorldOptions options = steady(3);
  options.negotiation.steady_steps = 3;
  World world(options);
  const auto run_steps = [&](int steps) {
    for (int step = 0; step < steps; ++step) {
      submit_everywhere(world, "w", all_reduce());
      world.run(2ms);
    }
    return world.steady(0).agreements;
  };
  for (int call = 0; call < 17; ++call) {
    const bool has_joined = call >= 3 && call < 11;
    world.expect("w", {.submitters = has_joined ? 2 : 3, .of_joined = all_reduce()});
  }
  CHECK(run_steps(3) == 0);
  world.join(1);
  for (int step = 0; step < 8; ++step) {
    for (const int rank : {0, 2}) world.submit(rank, "w", all_reduce());
    world.run(2ms);
  }
  CHECK(world.steady(0).leaves == 0);
  for (const int rank : {0, 2}) world.join(rank);
  world.run(2ms);
  CHECK(run_steps(3) == 0);
  CHECK(run_steps(3) > 0);
  CHECK(world.violations() == Log{});
}

TEST_CASE(
    "a join that crosses a schedule ends it, and is known before what was completed without it") {
  const int size = GENERATE(20, 100);  // Two hops from rank 0 to the last one, and three.
  WorldOptions options = steady(size);
  options.negotiation.steady_steps = 2;
  options.negotiation.cycle_time_ms = 0;
  World world(options);
  const int last = size - 1;
  REQUIRE(world.tree(last).parent != 0);
  for (int i = 0; i < 3; ++i) world.expect("w", {.submitters = size});
  for (int step = 0; step < 2; ++step) {
    submit_everywhere(world, "w", all_reduce());
    world.run(2ms);
  }
  for (int rank = 1; rank < size; ++rank) world.submit(rank, "w", all_reduce());
  const bool completes_another = GENERATE(true, false);
  world.expect("x", {.submitters = size - 1, .of_joined = all_reduce()});
  for (int rank = 0; completes_another && rank < last; ++rank) {
    world.submit(rank, "x", all_reduce());
  }
  world.run(1ms);
  // Known to the node above before the schedule, and to rank 0 behind it.
  world.join(last);
  world.run(5us);
  world.submit(0, "w", all_reduce());
  world.run(2ms);
  CHECK(world.steady(0).leaves == 1);
  CHECK_FALSE(world.end_of(last));
  CHECK(world.completions(0) == (completes_another ? 4 : 3));
  CHECK(world.violations() == Log{});
}

TEST_CASE("a root below another node that has joined is found there") {
  World world(steady(40));
  TensorSignature broadcast = all_reduce();
  broadcast.kind = OperationKind::broadcast;
  broadcast.root = 39;
  world.join(39);
  world.expect("t", {.is_mismatch = true, .submitters = 39});
  for (int rank = 0; rank < 39; ++rank) world.submit(rank, "t", broadcast);
  world.run(1ms);
  CHECK(world.completions(0) == 1);
  CHECK_THAT(world.log_of(0)[0], Contains("rank 39, the root"));
  CHECK(world.violations() == Log{});
}

TEST_CASE("ranks that differ hear so also while others have joined") {
  World world(steady(20));
  for (int rank = 3; rank < 20; ++rank) world.join(rank);
  world.expect("w", {.is_mismatch = true, .submitters = 3});
  for (int rank = 0; rank < 3; ++rank) {
    world.submit(rank, "w", all_reduce(rank == 1 ? Shape{5} : Shape{4}));
  }
  world.run(1ms);
  CHECK(world.completions(2) == 1);
  CHECK_THAT(world.log_of(2)[0], Contains("shape differs between ranks: [4] on ranks 0 and 2; [5] "
                                          "on rank 1"));
  CHECK(world.violations() == Log{});
}

TEST_CASE("who neither joins nor submits is reported, and ends the session if asked for") {
  WorldOptions options = steady(3);
  options.negotiation.stall_check_time_s = 0.01;
  options.negotiation.stall_shutdown_time_s = 0.05;
  World world(options);
  world.join(2);
  world.run(20ms);
  REQUIRE(world.stalls().size() >= 1);
  CHECK_THAT(world.stalls()[0].second,
             Contains("rank 2 has joined, and for 0.0 s ranks 0, 1 have neither joined nor"));
  // What is agreed on is progress.
  for (int i = 0; i < 10; ++i) {
    world.expect("w", {.submitters = 2, .of_joined = all_reduce()});
    world.submit(0, "w", all_reduce());
    world.submit(1, "w", all_reduce());
    world.run(20ms);
  }
  CHECK_FALSE(world.end_of(2));
  world.run();
  REQUIRE(world.end_of(2));
  CHECK(world.end_of(2)->code() == StatusCode::timed_out);
  CHECK_THAT(world.end_of(2)->message(), Contains("SCALECOM_STALL_SHUTDOWN_TIME_SECONDS"));
  CHECK(world.violations() == Log{});
}

TEST_CASE("beside a joined rank, what is executed is progress, and silence begins behind it") {
  const bool is_checked = GENERATE(true, false);
  Negotiation root({.rank = 0,
                    .size = 2,
                    .stall_check = is_checked,
                    .stall_check_time_s = 2.0,
                    .stall_shutdown_time_s = 9.0});
  Negotiation leaf({.rank = 1, .size = 2});
  TimePoint now{1000s};
  const auto stalls = [&] {
    root.advance(now);
    int count = 0;
    for (const auto& event : root.take_events()) count += std::holds_alternative<Stall>(event);
    return count;
  };
  leaf.join(DeviceKind::host, now);
  for (const auto& up : leaf.take_outgoing()) root.receive(1, up.message, now);
  CHECK(root.next_timer() == (is_checked ? std::optional(now + 2s) : std::nullopt));
  now += 1s;
  root.submit({"w", all_reduce()}, now);
  CHECK(stalls() == 0);
  root.set_backlog(1);
  for (int i = 0; i < 10; ++i) {
    now += 1s;
    CHECK(stalls() == 0);
  }
  root.set_backlog(0);
  now += 1s;
  CHECK(stalls() == 0);
  now += 2s;
  CHECK(stalls() == (is_checked ? 1 : 0));
}

TEST_CASE("a tensor that waits while a rank has joined is not said to miss that rank") {
  WorldOptions options = steady(3);
  options.negotiation.stall_check_time_s = 0.01;
  World world(options);
  world.join(2);
  world.submit(0, "w", all_reduce());
  world.run(15ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(world.stalls()[0].second, Contains("w: rank 1 has not submitted it"));
}
