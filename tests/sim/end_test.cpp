// Stalls, and the ways a session ends: each test is a small world with a known outcome.
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

/// Stalls are told after a second.
WorldOptions checked_for_stalls(int size) {
  WorldOptions options = steady(size);
  options.negotiation.stall_check_time_s = 1.0;
  return options;
}

}  // namespace

TEST_CASE("a stall is told once per stall check time, by rank 0, with who is missing") {
  const int size = GENERATE(4, 40);
  World world(checked_for_stalls(size));
  for (int rank = 0; rank < size; ++rank) {
    if (rank != 1 && rank != size - 1) world.submit(rank, "late", all_reduce());
    if (rank != 2) world.submit(rank, "later", all_reduce());
  }
  world.run(900ms);
  CHECK(world.stalls().empty());
  world.run(200ms);
  REQUIRE(world.stalls().size() == 1);
  const std::string message = world.stalls()[0].second;
  CHECK_THAT(message, Contains("2 tensors"));
  CHECK_THAT(message, Contains(fmt::format("late: ranks 1 and {} have not submitted it for 1.0 s",
                                           size - 1)));
  CHECK_THAT(message, Contains("later: rank 2 has not submitted it"));
  CHECK_THAT(message, Contains(size == 4 ? "(ranks 0 and 2 did)" : "(ranks 0 and 2-38 did)"));
  world.run(3s);
  CHECK(world.stalls().size() == 4);
  for (const int rank : {1, size - 1}) world.submit(rank, "late", all_reduce());
  world.submit(2, "later", all_reduce());
  world.run(3s);
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  CHECK(world.stalls().size() == 4);
}

TEST_CASE("a stall is seen wherever in the tree the submitting rank is") {
  World world(checked_for_stalls(100));
  world.submit(77, "lonely", all_reduce());
  world.run(1100ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(
      world.stalls()[0].second,
      Contains("lonely: ranks 0-76 and 78-99 have not submitted it") && Contains("(rank 77 did)"));
  // Ranks that follow later are seen in the next report.
  for (int rank = 10; rank < 20; ++rank) world.submit(rank, "lonely", all_reduce());
  const int neighbour = 76;  // A leaf like 77, of the same parent.
  REQUIRE(world.tree(neighbour).parent == world.tree(77).parent);
  world.submit(neighbour, "lonely", all_reduce());
  world.run(1s);
  REQUIRE(world.stalls().size() == 2);
  CHECK_THAT(world.stalls()[1].second, Contains("(ranks 10-19 and 76, 77 did)"));
}

TEST_CASE("a stall counts from the first rank that submitted, whoever hears of it when") {
  World world(checked_for_stalls(100));
  world.submit(77, "lonely", all_reduce());
  world.run(400ms);
  world.submit(0, "lonely", all_reduce());
  world.run(700ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(world.stalls()[0].second, Contains("for 1.0 s (ranks 0 and 77 did)"));
}

TEST_CASE("a tensor that is missed again is not said to have come from those of the last time") {
  World world(checked_for_stalls(100));
  submit_everywhere(world, "w", all_reduce());
  world.run(1ms);
  world.submit(77, "w", all_reduce());
  world.run(1100ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(world.stalls()[0].second, Contains("(rank 77 did)"));
  for (int rank = 0; rank < 100; ++rank) {
    if (rank != 77) world.submit(rank, "w", all_reduce());
  }
  world.run(1ms);
  const int next = GENERATE(76, 20);  // A leaf of the same parent, and one of another.
  world.submit(next, "w", all_reduce());
  world.run(400ms);
  CHECK(world.stalls().size() == 1);
  world.run(700ms);
  REQUIRE(world.stalls().size() == 2);
  CHECK_THAT(world.stalls()[1].second, Contains(fmt::format("for 1.0 s (rank {} did)", next)));
}

TEST_CASE("what an adapter waits for stands in its words behind the user's tensors, once") {
  World world(checked_for_stalls(3));
  const bool has_users = GENERATE(true, false);
  for (int rank = 0; rank < 2; ++rank) {
    world.submit(rank, "allreduce.scalecom[which gradients are sparse].a", all_reduce());
    world.submit(rank, "allreduce.scalecom[which gradients are sparse].b", all_reduce());
    if (has_users) world.submit(rank, "w", all_reduce());
  }
  world.run(1200ms);
  REQUIRE(world.stalls().size() == 1);
  const std::string own =
      "which gradients are sparse: rank 2 has not come to it for 1.0 s (ranks 0, 1 did). A rank";
  CHECK_THAT(
      world.stalls()[0].second,
      Contains(has_users ? "1 tensor was not submitted by all ranks for 1 s or more. w: rank 2 "
                           "has not submitted it for 1.0 s (ranks 0, 1 did). Beside it "
                           "scalecom waits for its own " +
                               own
                         : "own was not begun by all ranks for 1 s or more. " + own));
}

TEST_CASE("who is missing for any of several tensors with the same words is told") {
  World world(checked_for_stalls(4));
  const std::string name = "broadcast.scalecom[optimizer state].";
  for (const int rank : {0, 1, 2}) world.submit(rank, name + "0", all_reduce());
  for (const int rank : {0, 1, 3}) world.submit(rank, name + "1", all_reduce());
  for (const int rank : {0, 2, 3}) world.submit(rank, "allgather.scalecom[ends]", all_reduce());
  world.submit(1, "allgather.scalecom[ends].x", all_reduce());
  world.run(1200ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(
      world.stalls()[0].second,
      Contains("optimizer state: ranks 2, 3 have not come to it for 1.0 s (ranks 0, 1 did)") &&
          Contains("ends: ranks 0-3 have not come to it for 1.0 s (no rank did all of it)"));
}

TEST_CASE("a name that only looks like scalecom's own is the user's") {
  const std::string name =
      GENERATE("allreduce.layer.scalecom[0].w", "scalecom[0].w", "layer.scalecom[0]",
               "allreduce.scalecom[0", "allreduce.scalecom[0]w", "allreduce.scalecoms[0]");
  World world(checked_for_stalls(2));
  world.submit(0, name, all_reduce());
  world.run(1200ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(world.stalls()[0].second,
             Contains("1 tensor was not submitted by all ranks for 1 s or more. " + name +
                      ": rank 1 has not submitted it"));
}

TEST_CASE("of many exchanges of scalecom's own a report shows ten") {
  World world(checked_for_stalls(2));
  for (int i = 0; i < 12; ++i) {
    world.submit(0, "allreduce.scalecom[purpose " + std::to_string(i) + "]", all_reduce());
  }
  world.run(1200ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(world.stalls()[0].second,
             Contains("purpose 9: ") && !Contains("purpose 10: ") && Contains("; and 2 more. A"));
}

TEST_CASE("past the stall shutdown time every rank's session ends and names who is missing") {
  const double check_time = GENERATE(1.0, 60.0);
  WorldOptions options = steady(20);
  options.negotiation.stall_check_time_s = check_time;
  options.negotiation.stall_shutdown_time_s = 4.0;
  World world(options);
  for (int rank = 0; rank < 20; ++rank) {
    if (rank != 7) world.submit(rank, "late", all_reduce());
  }
  const TimePoint start = world.now();
  world.run(20s);
  world.check_drained(true);
  CHECK(world.violations() == Log{});
  CHECK(world.last_end() - start >= 4s);
  CHECK(world.last_end() - start < 4400ms);
  for (int rank = 0; rank < 20; ++rank) {
    REQUIRE(world.end_of(rank));
    CHECK(world.end_of(rank)->code() == StatusCode::timed_out);
    CHECK_THAT(world.end_of(rank)->message(), Contains("tensor late: rank 7 has not submitted it"));
  }
}

TEST_CASE("the stall shutdown time of a tensor is its own, whatever waited before it") {
  WorldOptions options = steady(2);
  options.negotiation.stall_shutdown_time_s = 4.0;
  World world(options);
  world.submit(0, "early", all_reduce());
  world.run(3s);
  world.submit(0, "late", all_reduce());
  const TimePoint start = world.now();
  world.run(500ms);
  world.submit(1, "early", all_reduce());
  world.run(20s);
  CHECK(world.log_of(0) == Log{"1: early step 0"});
  CHECK(world.last_end() - start >= 4s);
  CHECK(world.last_end() - start < 4400ms);
}

TEST_CASE("without the stall check nothing is told and nothing is timed") {
  WorldOptions options = steady(2);
  options.negotiation.stall_check = false;
  options.negotiation.stall_check_time_s = 0.1;
  options.negotiation.stall_shutdown_time_s = 0.2;
  World world(options);
  world.submit(0, "late", all_reduce());
  world.run(10s);
  CHECK(world.stalls().empty());
  CHECK_FALSE(world.end_of(0));
}

TEST_CASE("an idle session has no timer") {
  Negotiation node({.rank = 0, .size = 2});
  CHECK_FALSE(node.next_timer());
  const TimePoint start{1000s};
  node.submit({"w", all_reduce()}, start);
  REQUIRE(node.next_timer());
  CHECK(*node.next_timer() == start + 60s);
}

TEST_CASE("a shutdown comes after every agreement that was ordered before it, on every rank") {
  World world(steady(50));
  submit_everywhere(world, "a", all_reduce());
  world.run(60us);  // Rank 0 has ordered it; two hops away nobody knows yet.
  CHECK(world.log_of(49).empty());
  world.end_session(30, Status(StatusCode::shut_down, "rank 30 called shutdown()"));
  world.end_session(31, Status(StatusCode::shut_down, "rank 31 called shutdown()"));
  world.submit(3, "never", all_reduce());
  world.run();
  world.check_drained(true);
  CHECK(world.violations() == Log{});
  for (int rank = 0; rank < 50; ++rank) {
    CHECK(world.log_of(rank) == Log{"1: a step 0"});
    CHECK(world.end_of(rank) == world.end_of(0));
    CHECK_THAT(world.end_of(rank)->message(), Contains("called shutdown()"));
  }
}

TEST_CASE("a lost rank is named on every other rank, wherever it was in the tree") {
  const int lost = GENERATE(0, 1, 2, 9, 33, 99);
  World world(steady(100));
  submit_everywhere(world, "a", all_reduce());
  world.at(lost, 50us, [&] { world.kill(lost); });
  world.run();
  world.check_drained(true);
  CHECK(world.violations() == Log{});
  for (int rank = 0; rank < 100; ++rank) {
    if (rank == lost) continue;
    CHECK(world.end_of(rank) == lost_rank(lost, "connection closed").status());
  }
}

TEST_CASE("ranks below a lost one report it even when rank 0 does not answer") {
  // Rank 1 of the tree below rank 0 has no way to rank 0 any more, but is not closed either.
  Negotiation node({.rank = 1, .size = 100});
  const ControlTree tree = ControlTree::make(1, 100);
  REQUIRE(tree.children.size() == 8);
  const TimePoint start{1000s};
  node.lose_peer(tree.children[2], "no answer for 5 s", start);
  CHECK(node.take_events().empty());
  REQUIRE(node.take_outgoing().size() == 1);
  REQUIRE(node.next_timer());
  CHECK(*node.next_timer() == start + 1s);
  node.advance(*node.next_timer());
  const auto events = node.take_events();
  REQUIRE(events.size() == 1);
  CHECK_THAT(std::get<SessionEnd>(events[0]).status.message(),
             Contains(fmt::format("rank {} is lost: no answer for 5 s", tree.children[2])));
  CHECK(node.take_outgoing().size() == 9);  // To the children, and to the parent in case it lives.
  CHECK(*std::max_element(tree.children.begin(), tree.children.end()) < tree.subtree_end);
}

TEST_CASE("a rank whose collective failed ends at once and tells those above and below why") {
  const ControlTree tree = ControlTree::make(1, 100);
  Negotiation node({.rank = 1, .size = 100});
  const Status cause(StatusCode::timed_out, "all_reduce of w: no data for 600 s");
  node.end_session(cause, TimePoint{1000s});
  const auto events = node.take_events();
  REQUIRE(events.size() == 1);
  CHECK(std::get<SessionEnd>(events[0]).status == cause);
  std::vector<int> told;
  for (const auto& outgoing : node.take_outgoing()) {
    told.push_back(outgoing.to);
    CHECK_THAT(outgoing.message, Contains(cause.message()));
  }
  std::sort(told.begin(), told.end());
  std::vector<int> neighbours = tree.children;
  neighbours.insert(neighbours.begin(), tree.parent);
  CHECK(told == neighbours);
}

TEST_CASE("a failure that a node knew of goes before the loss of its parent") {
  Negotiation node({.rank = 1, .size = 100});
  const ControlTree tree = ControlTree::make(1, 100);
  node.end_session(Status(StatusCode::shut_down, "rank 1 called shutdown()"), TimePoint{1000s});
  SECTION("a shutdown that was asked for is none") {
    node.lose_peer(0, "connection closed", TimePoint{1000s});
    const auto events = node.take_events();
    REQUIRE(events.size() == 1);
    CHECK_THAT(std::get<SessionEnd>(events[0]).status.message(), Contains("rank 0 is lost"));
  }
  SECTION("a lost child is one") {
    node.lose_peer(tree.children[3], "connection closed", TimePoint{1000s});
    node.lose_peer(0, "connection closed", TimePoint{1000s});
    const auto events = node.take_events();
    REQUIRE(events.size() == 1);
    CHECK_THAT(std::get<SessionEnd>(events[0]).status.message(),
               Contains(fmt::format("rank {} is lost", tree.children[3])));
    for (const auto& outgoing : node.take_outgoing()) CHECK(outgoing.to != 0);
  }
}
