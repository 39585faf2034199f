// A rank 0 that hangs: what ranks make of hearing nothing from it.
#include <string>

#include "tests/sim/scheduled_pair.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

// Of the collective time-out half until a rank asks; then as much, and 5 s more, for the answer.
constexpr auto kAsk = 1s;
constexpr auto kEnd = 7s;

NegotiationOptions leaf_of(int size) {
  return {.rank = 1,
          .size = size,
          .cycle_time_ms = 0,
          .stall_check = false,
          .collective_timeout_s = 2.0};
}

/// The message of the end, which is a time-out; empty: none so far.
std::string end_of(Negotiation& node, TimePoint now) {
  node.advance(now);
  for (const NegotiationEvent& event : node.take_events()) {
    const auto* end = std::get_if<SessionEnd>(&event);
    if (end == nullptr) continue;
    CHECK(end->status.code() == StatusCode::timed_out);
    return end->status.message();
  }
  return "";
}

/// Nobody answers the node, which waits since `now`: that it asks, and the message of its end.
std::string leave_alone(Negotiation& node, TimePoint now) {
  node.take_outgoing();
  CHECK(end_of(node, now + kAsk - 1ms) == "");
  CHECK(node.take_outgoing().empty());
  CHECK(node.next_timer() == now + kAsk);
  CHECK(end_of(node, now + kAsk) == "");
  CHECK(node.take_outgoing().size() == 1);
  CHECK(end_of(node, now + kEnd - 1ms) == "");
  CHECK(node.take_outgoing().empty());
  CHECK(node.next_timer() == now + kEnd);
  const std::string message = end_of(node, now + kEnd);
  CHECK_FALSE(node.next_timer());
  return message;
}

/// What the two say to each other now.
void exchange(Negotiation& leaf, Negotiation& root, TimePoint now) {
  for (const auto& up : leaf.take_outgoing()) root.receive(1, up.message, now);
  for (const auto& down : root.take_outgoing()) {
    if (down.to == 1) leaf.receive(0, down.message, now);
  }
}

}  // namespace

TEST_CASE("a rank that rank 0 does not answer ends its session by itself, and says who hangs") {
  Negotiation leaf(leaf_of(3));
  const TimePoint start{1000s};
  std::string waits;
  SECTION("with tensors") {
    leaf.submit({"w", all_reduce()}, start);
    leaf.submit({"v", all_reduce()}, start + 1s);
    waits = "2 tensors that it has submitted";
  }
  SECTION("with a join") {
    leaf.join(DeviceKind::host, start);
    waits = "its join";
  }
  CHECK_THAT(leave_alone(leaf, start),
             Contains("rank 0 hangs: for 7.0 s rank 1 has heard nothing about " + waits) &&
                 Contains("SCALECOM_COLLECTIVE_TIMEOUT"));
}

TEST_CASE("ranks below one that hears nothing end with it, and it may be one between that hangs") {
  const TimePoint start{1000s};
  Negotiation node(leaf_of(100));
  const ControlTree tree = ControlTree::make(1, 100);
  REQUIRE(tree.children.size() == 8);
  node.submit({"w", all_reduce()}, start);
  CHECK(leave_alone(node, start) != "");
  CHECK(node.take_outgoing().size() == tree.children.size() + 1);
  NegotiationOptions options = leaf_of(100);
  options.rank = tree.children[0];
  Negotiation leaf(options);
  leaf.submit({"w", all_reduce()}, start);
  CHECK_THAT(leave_alone(leaf, start), Contains("rank 1, or one above it up to rank 0, hangs"));
}

TEST_CASE("a rank 0 that waits for others itself answers, however long that takes") {
  Negotiation leaf(leaf_of(3));
  Negotiation root({.rank = 0, .size = 3, .cycle_time_ms = 0, .steady_steps = 0});
  TimePoint now{1000s};
  SECTION("for a tensor") { leaf.submit({"w", all_reduce()}, now); }
  SECTION("for joins") { leaf.join(DeviceKind::host, now); }
  exchange(leaf, root, now);
  for (int i = 0; i < 100; ++i) {
    now += kAsk;
    CHECK(end_of(leaf, now) == "");
    exchange(leaf, root, now);
  }
  CHECK(leave_alone(leaf, now) != "");
}

TEST_CASE("ranks of a tree wait for those that are late, above them too, and ask meanwhile") {
  WorldOptions options = steady(40);
  options.negotiation.stall_check = false;
  options.negotiation.collective_timeout_s = 2.0;
  World world(options);
  const bool joins = GENERATE(false, true);
  const int one = GENERATE(1, 39);
  const bool is_late = GENERATE(false, true);  // Else all others are.
  REQUIRE_FALSE(world.tree(1).children.empty());
  REQUIRE(world.tree(39).parent > 0);
  for (int rank = 0; rank < world.size(); ++rank) {
    world.at(rank, (rank == one) == is_late ? 60s : 0s, [&world, rank, joins] {
      joins ? world.join(rank) : world.submit(rank, "w", all_reduce());
    });
  }
  world.expect("w", {});
  world.run();
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  const int waiting = is_late ? 38 : one;
  const auto asks = world.traffic_between(waiting, world.tree(waiting).parent).messages;
  CHECK(asks >= 40);
  CHECK(asks <= 70);
}

TEST_CASE("a node that ends for a failure below and for silence above ends once") {
  Negotiation node(leaf_of(100));
  Negotiation leaf([] {
    NegotiationOptions options = leaf_of(100);
    options.rank = ControlTree::make(1, 100).children[0];
    return options;
  }());
  const TimePoint start{1000s};
  node.submit({"w", all_reduce()}, start);
  CHECK(end_of(node, start + kAsk) == "");
  leaf.end_session(Status(StatusCode::rank_lost, "rank 99 is lost"), start + kEnd - 1s);
  for (const auto& up : leaf.take_outgoing()) node.receive(2, up.message, start + kEnd - 1s);
  node.take_outgoing();
  node.advance(start + kEnd);
  CHECK(node.take_events().size() == 1);
  CHECK(node.take_outgoing().size() == ControlTree::make(1, 100).children.size() + 1);
}

TEST_CASE("a rank that was stopped itself asks before it blames another") {
  Negotiation leaf(leaf_of(2));
  const TimePoint start{1000s};
  leaf.submit({"w", all_reduce()}, start);
  CHECK(leaf.take_outgoing().size() == 1);
  CHECK(end_of(leaf, start + 1h) == "");
  CHECK(leaf.take_outgoing().size() == 1);
  CHECK(end_of(leaf, start + 1h + kEnd - kAsk - 1ms) == "");
  CHECK_THAT(end_of(leaf, start + 1h + kEnd - kAsk), Contains("for 3606.0 s"));
}

TEST_CASE("whatever rank 0 says is an answer, and who waits for nothing asks nothing") {
  Negotiation leaf(leaf_of(2));
  Negotiation root({.rank = 0, .size = 2, .cycle_time_ms = 0, .steady_steps = 0});
  TimePoint now{1000s};
  leaf.submit({"wanted", all_reduce()}, now);
  for (const char* name : {"one", "two", "three"}) {
    now += kAsk - 1ms;
    root.set_backlog(0);
    for (Negotiation* node : {&leaf, &root}) node->submit({name, all_reduce()}, now);
    exchange(leaf, root, now);
    CHECK(end_of(leaf, now) == "");
    CHECK(leaf.take_outgoing().empty());
    root.take_events();
  }
  root.set_backlog(0);
  root.submit({"wanted", all_reduce({5})}, now);  // A mismatch is one, too.
  exchange(leaf, root, now);
  CHECK(end_of(leaf, now) == "");
  CHECK_FALSE(leaf.next_timer());
  // The time runs from the next submit on, not from what was heard last.
  now += 1h;
  CHECK(end_of(leaf, now) == "");
  leaf.submit({"late", all_reduce()}, now);
  CHECK_THAT(leave_alone(leaf, now), Contains("1 tensor that it has submitted"));
}

TEST_CASE("in the steady state the silence begins when a rank wants to leave it") {
  ScheduledPair world(leaf_of(2));
  world.now += 1h;
  CHECK(end_of(world.leaf, world.now) == "");
  CHECK_FALSE(world.leaf.next_timer());
  world.leaf.submit({"x", all_reduce()}, world.now);
  SECTION("rank 0 does not stop the schedule") { CHECK(world.left() != ""); }
  SECTION("or does not decide what became of it") {
    world.exchange();
    CHECK(world.leaf.take_outgoing().size() == 1);  // Its report.
  }
  CHECK_THAT(leave_alone(world.leaf, world.now), Contains("rank 0 hangs: for 7.0 s"));
}

TEST_CASE("a rank that has only stopped the steady state waits for its end") {
  ScheduledPair world(leaf_of(2));
  world.root.submit({"x", all_reduce()}, world.now);
  world.send_down();
  CHECK_THAT(leave_alone(world.leaf, world.now),
             Contains("heard nothing about the end of the steady state"));
}

TEST_CASE("what the end of the steady state took back is waited for again") {
  ScheduledPair world(leaf_of(2));
  world.leaf.submit({"a", all_reduce()}, world.now);
  CHECK(world.agreements() == 1);
  world.root.submit({"x", all_reduce()}, world.now);
  world.send_down();
  world.exchange();
  world.leaf.take_events();
  CHECK_THAT(leave_alone(world.leaf, world.now), Contains("1 tensor that it has submitted"));
}

TEST_CASE("a stall shutdown time that is shorter says when a silence is too long") {
  NegotiationOptions options = leaf_of(2);
  options.stall_shutdown_time_s = 0.5;
  const TimePoint start{1000s};
  const auto ends_within_6_s = [&] {
    Negotiation leaf(options);
    leaf.submit({"w", all_reduce()}, start);
    CHECK(end_of(leaf, start + 250ms) == "");
    CHECK(end_of(leaf, start + 1s) == "");
    return end_of(leaf, start + 6s) != "";
  };
  CHECK_FALSE(ends_within_6_s());
  options.stall_check = true;
  CHECK(ends_within_6_s());
  options.stall_shutdown_time_s = 50.0;
  CHECK_FALSE(ends_within_6_s());
}
