// The steady state's rules, one by one: each test is a small world with a known outcome.
#include <fmt/format.h>

#include <algorithm>

#include "base/lost_rank.hpp"
#include "tests/sim/small_world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

WorldOptions repeating(int size) {
  WorldOptions options = steady(size);
  options.negotiation.steady_steps = 3;
  return options;
}

// One step: a dense tensor and a compressed one. After four of them (one to fill the cache) the
// ranks are in the steady state, and at step 4 of the compressed one.
void submit_step(World& world) {
  submit_everywhere(world, "a", all_reduce());
  submit_everywhere(world, "w", compressed());
}

void become_steady(World& world) {
  for (int step = 0; step < 4; ++step) {
    submit_step(world);
    world.run(10ms);
  }
  for (int rank = 0; rank < world.size(); ++rank) REQUIRE(world.steady(rank).agreements == 0);
}

std::int64_t messages(const World& world) {
  std::int64_t all = 0;
  for (int rank = 0; rank < world.size(); ++rank) all += world.traffic(rank).messages;
  return all;
}

void require_sound(World& world) {
  world.check_drained(false);
  REQUIRE(world.violations() == Log{});
}

}  // namespace

TEST_CASE("after three equal steps the ranks repeat them without a message") {
  const int size = GENERATE(2, 16, 40);
  World world(repeating(size));
  become_steady(world);
  const std::int64_t before = messages(world);
  for (int step = 0; step < 20; ++step) {
    submit_step(world);
    world.run(10ms);
  }
  require_sound(world);
  CHECK(messages(world) == before);
  CHECK(world.log_of(size - 1).size() == 24 * 2);
  CHECK(world.log_of(size - 1).back() == "24: w step 23");
  CHECK(world.steady(size - 1).agreements == 20);
  CHECK(world.steady(0).leaves == 0);
}

TEST_CASE(
    "without steps to repeat, on one rank alone, and for other operations all is negotiated") {
  WorldOptions options = repeating(3);
  TensorSignature signature = all_reduce();
  SECTION("turned off") { options.negotiation.steady_steps = 0; }
  SECTION("one rank") { options.size = 1; }
  SECTION("a broadcast waits for nobody") { signature.kind = OperationKind::broadcast; }
  SECTION("an empty all-reduce waits for nobody") { signature.shape = {0, 4}; }
  SECTION("without a cache") { options.negotiation.cache_capacity = 0; }
  World world(options);
  for (int step = 0; step < 10; ++step) {
    submit_everywhere(world, "w", signature);
    world.run(10ms);
  }
  require_sound(world);
  CHECK(world.log_of(0).size() == 10);
  CHECK(world.steady(0).agreements == 0);
}

namespace {

// The steady state, and three steps in it.
void repeat_steps(World& world) {
  become_steady(world);
  for (int step = 0; step < 3; ++step) {
    submit_step(world);
    world.run(10ms);
  }
}

// The steady state was left for this reason, and comes back.
void require_return(World& world, const std::string& reason) {
  const int last = world.size() - 1;
  CHECK_THAT(world.steady(last).last_reason, Contains(reason));
  CHECK(world.steady(last).leaves == 1);
  for (int step = 0; step < 10; ++step) {
    const std::int64_t before = messages(world);
    submit_step(world);
    world.run(10ms);
    // The schedule did not last long, so that it takes six equal steps this time.
    if (step < 6) CHECK(messages(world) > before);
    if (step > 6) CHECK(messages(world) == before);
  }
  require_sound(world);
}

}  // namespace

TEST_CASE("whatever all ranks do otherwise ends the steady state, and negotiation goes on") {
  constexpr int kSize = 20;
  World world(repeating(kSize));
  repeat_steps(world);
  std::string reason;
  SECTION("another tensor") {
    submit_everywhere(world, "x", all_reduce());
    reason = "submitted tensor x, which is none of the schedule's";
  }
  SECTION("another operation") {
    TensorSignature gather = all_reduce({5});
    gather.kind = OperationKind::all_gather;
    ExpectedCall expected;
    expected.first_extents.assign(kSize, 5);
    for (int call = 0; call < 8; ++call) world.expect("a", call < 7 ? ExpectedCall{} : expected);
    submit_everywhere(world, "a", gather);
    reason = "submitted tensor a with operation all_gather instead of all_reduce";
  }
  SECTION("a barrier") {
    TensorSignature barrier;
    barrier.kind = OperationKind::barrier;
    submit_everywhere(world, "barrier", barrier);
    reason = "submitted tensor barrier, which is none of the schedule's";
  }
  SECTION("a restored checkpoint") {
    for (int rank = 0; rank < kSize; ++rank) world.restart_steps(rank, "w");
    for (const std::int64_t step : {0, 1, 2, 3, 4, 5, 6, 0}) {
      ExpectedCall expected;
      expected.step = step;
      world.expect("w", expected);
    }
    reason = "restored the steps of tensor w";
  }
  world.run(10ms);
  require_return(world, reason);
}

TEST_CASE("a rank that is first to do otherwise is named, and the others follow when they do it") {
  const int odd = GENERATE(0, 7, 19);
  World world(repeating(20));
  repeat_steps(world);
  const bool is_shape = GENERATE(false, true);
  const std::string name = is_shape ? "a" : "x";
  world.submit(odd, name, all_reduce({5}));
  world.run(10ms);
  CHECK(world.log_of(0).back() == "7: w step 6");
  CHECK(world.steady(0).leaves == 1);
  for (int rank = 0; rank < 20; ++rank) {
    if (rank != odd) world.submit(rank, name, all_reduce({5}));
  }
  world.run(10ms);
  const char* what = is_shape ? "a with shape [5] instead of [4]" : "x, which is none of the";
  require_return(world, fmt::format("rank {} submitted tensor {}", odd, what));
}

TEST_CASE("a tensor that is not submitted any more holds the others up for the patience only") {
  World world(repeating(20));
  repeat_steps(world);
  submit_everywhere(world, "a", all_reduce());
  world.run(15ms);
  CHECK(world.steady(0).leaves == 0);
  CHECK(world.log_of(0).size() == 14);
  world.run(15ms);
  CHECK(world.log_of(0).back() == "8: a step 0");
  submit_everywhere(world, "a", all_reduce());
  world.run(10ms);
  CHECK(world.log_of(0).back() == "9: a step 0");
  require_return(world, "has not submitted tensor w, the next of the schedule, 2");
}

TEST_CASE("what only some ranks have begun is void, and is agreed on again with the same step") {
  const int size = 20;
  World world(repeating(size));
  become_steady(world);
  // All but rank 11 begin the next agreement.
  for (int rank = 0; rank < size; ++rank) {
    if (rank == 11) continue;
    world.submit(rank, "a", all_reduce());
    world.submit(rank, "w", compressed());
  }
  world.run(1ms);
  CHECK(world.steady(5).agreements == 1);
  world.submit(11, "x", all_reduce());
  world.run(1ms);
  CHECK(world.log_of(0).size() == 8);
  CHECK(world.steady(11).leaves == 1);
  CHECK(world.steady(11).agreements == 1);
  CHECK(world.void_agreements() == 1);
  world.submit(11, "a", all_reduce());
  world.submit(11, "w", compressed());
  world.run(10ms);
  // Agreement 5 was void.
  CHECK(world.log_of(11)[8].substr(0, 2) == "6:");
  CHECK(world.log_of(11)[9] == "6: w step 4");
  for (int rank = 0; rank < size; ++rank) {
    if (rank != 11) world.submit(rank, "x", all_reduce());
  }
  world.run(10ms);
  require_sound(world);
}

TEST_CASE("what every rank has begun completes, also when the schedule is left meanwhile") {
  WorldOptions options = repeating(5);
  options.execution_max = 2ms;
  World world(options);
  for (int step = 0; step < 4; ++step) {
    submit_step(world);
    world.run(20ms);
  }
  submit_step(world);
  world.run(100us);
  CHECK(world.log_of(0).size() == 8);
  SECTION("by another tensor") {
    submit_everywhere(world, "x", all_reduce());
    world.run(20ms);
    require_sound(world);
    CHECK(world.log_of(4)[9] == "5: w step 4");
    CHECK(world.log_of(4)[10] == "6: x step 0");
    CHECK(world.void_agreements() == 0);
  }
  SECTION("by a shutdown") {
    world.end_session(3, Status(StatusCode::shut_down, "rank 3 called shutdown()"));
    world.run(20ms);
    world.check_drained(true);
    CHECK(world.violations() == Log{});
    CHECK(world.log_of(4).size() == 10);
    CHECK(world.log_of(4).back() == "5: w step 4");
    CHECK(world.end_of(0)->message() == "rank 3 called shutdown()");
    CHECK_THAT(world.steady(4).last_reason, Contains("rank 3 called shutdown()"));
    CHECK(world.forced_ends() == 0);
  }
}

TEST_CASE("a rank that hangs in the steady state is named when the stall check time is over") {
  WorldOptions options = repeating(20);
  options.negotiation.stall_check_time_s = 1.0;
  options.negotiation.stall_shutdown_time_s = 3.0;
  World world(options);
  become_steady(world);
  for (int rank = 0; rank < 20; ++rank) {
    if (rank == 13) continue;
    world.submit(rank, "a", all_reduce());
    world.submit(rank, "w", compressed());
  }
  const TimePoint start = world.now();
  world.run(1100ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(world.stalls()[0].second, Contains("a: rank 13 has not submitted it for 1.0 s"));
  world.run(10s);
  world.check_drained(true);
  CHECK(world.violations() == Log{});
  CHECK(world.last_end() - start >= 3s);
  CHECK(world.last_end() - start < 3400ms);
  CHECK_THAT(world.end_of(5)->message(), Contains("rank 13 has not submitted it"));
}

TEST_CASE("a lost rank or a failure ends the steady state like any other, at once") {
  const int lost = GENERATE(0, 1, 9, 39);
  World world(repeating(40));
  become_steady(world);
  for (int rank = 0; rank < 40; ++rank) {
    if (rank != 20) world.submit(rank, "a", all_reduce());
  }
  SECTION("a lost rank, all steady") {
    world.run(1ms);
    world.kill(lost);
  }
  SECTION("a lost rank, some held") {
    world.submit(20, "x", all_reduce());
    world.run(50us);
    world.kill(lost);
  }
  SECTION("a failure") {
    world.run(1ms);
    world.end_session(lost, Status(StatusCode::timed_out, "no data"));
  }
  const TimePoint start = world.now();
  world.run(10s);
  world.check_drained(true);
  CHECK(world.violations() == Log{});
  CHECK(world.last_end() - start < 10ms);
  const bool is_lost = !world.is_alive(lost);
  for (int rank = 0; rank < 40; ++rank) {
    if (!world.is_alive(rank)) continue;
    CHECK(world.end_of(rank)->message() ==
          (is_lost ? lost_rank(lost, "connection closed").what() : "no data"));
  }
}

TEST_CASE("a mismatch in every step keeps it negotiated") {
  World world(repeating(3));
  for (int step = 0; step < 10; ++step) {
    submit_step(world);
    for (int rank = 0; rank < 3; ++rank) world.submit(rank, "x", all_reduce({4 + rank}));
    for (int call = 0; step == 0 && call < 10; ++call) {
      ExpectedCall expected;
      expected.is_mismatch = true;
      world.expect("x", expected);
    }
    world.run(10ms);
  }
  require_sound(world);
  CHECK(world.decisions(2) == 30);
  CHECK(world.steady(0).leaves == 0);
  CHECK(world.steady(2).agreements == 0);
}

TEST_CASE("a stall report that is about to go up when the schedule starts is taken back") {
  // A child's request makes its parent report the tensor once more, at any time around the
  // schedule.
  for (int offset_us = 0; offset_us < 100; ++offset_us) {
    WorldOptions options = repeating(40);
    options.negotiation.cycle_time_ms = 0;
    options.negotiation.stall_check_time_s = 0.02;
    World world(options);
    const ControlTree& tree = world.tree(1);
    REQUIRE(tree.children.size() >= 2);
    for (int step = 0; step < 4; ++step) {
      submit_everywhere(world, "a", all_reduce());
      world.run(1ms);
      if (step < 3) submit_everywhere(world, "w", all_reduce());
      world.run(1ms);
    }
    world.submit(tree.children[0], "a", all_reduce());
    world.run(15ms);
    submit_everywhere(world, "w", all_reduce());
    world.at(tree.children[1], std::chrono::microseconds(offset_us),
             [&] { world.submit(tree.children[1], "a", all_reduce()); });
    world.run(1ms);
    for (int rank = 0; rank < 40; ++rank) {
      if (rank != tree.children[0] && rank != tree.children[1]) {
        world.submit(rank, "a", all_reduce());
      }
    }
    world.run(1ms);
    require_sound(world);
    CHECK(world.decisions(39) == 9);
  }
}

TEST_CASE("what a rank submitted otherwise before the schedule starts keeps its own extents") {
  WorldOptions options = repeating(3);
  options.negotiation.cycle_time_ms = 0;
  World world(options);
  for (int step = 0; step < 4; ++step) {
    for (const char* name : {"a", "w"}) {
      if (step == 3 && *name == 'w') break;
      submit_everywhere(world, name, all_reduce());
      world.run(1ms);
    }
  }
  ExpectedCall expected;
  expected.first_extents = {5, 6, 7};
  for (int call = 0; call < 5; ++call) world.expect("a", call < 4 ? ExpectedCall{} : expected);
  const auto submit_gather = [&](int rank) {
    TensorSignature gather = all_reduce({5 + rank});
    gather.kind = OperationKind::all_gather;
    world.submit(rank, "a", gather);
  };
  for (const int rank : {1, 2}) submit_gather(rank);
  world.run(1ms);
  submit_everywhere(world, "w", all_reduce());
  world.run(1ms);
  CHECK(world.steady(0).leaves == 1);
  submit_gather(0);
  world.run(1ms);
  require_sound(world);
  CHECK(world.decisions(2) == 9);
}

TEST_CASE("requests under way when the schedule starts are neither lost nor counted twice") {
  // Ranks submit the next step at once, so that many of its requests cross the schedule.
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    WorldOptions options = repeating(12);
    options.seed = seed;
    options.delay_max = 1ms;
    World world(options);
    std::vector<int> calls(12, 0);
    world.on_completion([&](int rank, const std::string& name) {
      if (calls[static_cast<std::size_t>(rank)]++ < 60) {
        world.submit(rank, name, name == "w" ? compressed() : all_reduce());
      }
    });
    submit_step(world);
    world.run(10s);
    INFO("seed " << seed);
    require_sound(world);
    CHECK(world.log_of(11).size() == 62);
    CHECK(world.steady(11).agreements > 10);
  }
}
