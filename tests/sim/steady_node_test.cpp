// The steady state seen by one node: what it says and when, without a world around it.
#include "tests/sim/scheduled_pair.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

/// The leaf takes the next agreement, of `name`; the one before is over, and this one is not.
void leave_unfinished(ScheduledPair& world, const char* name) {
  world.leaf.submit({name, all_reduce()}, world.now);
  CHECK(world.agreements() == 1);
  world.leaf.set_backlog(1);
  CHECK(world.left() == "");
}

}  // namespace

TEST_CASE("a rank holds back results from its report to the decision") {
  Negotiation leaf({.rank = 1, .size = 2, .cycle_time_ms = 0});
  Negotiation root({.rank = 0, .size = 2, .cycle_time_ms = 0});
  const TimePoint now{1000s};
  const auto exchange = [&] {
    for (int hop = 0; hop < 2; ++hop) {
      for (const auto& up : leaf.take_outgoing()) root.receive(1, up.message, now);
      for (const auto& down : root.take_outgoing()) leaf.receive(0, down.message, now);
    }
  };
  for (int step = 0; step < 4; ++step) {
    for (Negotiation* node : {&leaf, &root}) {
      node->set_backlog(0);
      node->submit({"w", compressed()}, now);
    }
    exchange();
    CHECK(leaf.take_events().size() == 1);
    CHECK(root.take_events().size() == 1);
  }
  leaf.set_backlog(0);
  leaf.submit({"w", compressed()}, now);
  REQUIRE(leaf.take_events().size() == 1);
  root.set_backlog(0);
  root.submit({"x", all_reduce()}, now);
  // Rank 0 stops the schedule. Its child holds, and knows nothing more until the decision.
  CHECK(std::holds_alternative<Hold>(root.take_events().at(0)));
  for (const auto& down : root.take_outgoing()) leaf.receive(0, down.message, now);
  auto events = leaf.take_events();
  REQUIRE(events.size() == 1);
  CHECK_THAT(std::get<Hold>(events[0]).message,
             Contains("the steady state ends after 1 agreements: rank 0 submitted tensor x"));
  for (const auto& up : leaf.take_outgoing()) root.receive(1, up.message, now);
  events = root.take_events();
  REQUIRE(events.size() == 2);
  CHECK(std::get<Revocation>(events[0]).first_void_sequence == 5);
  CHECK(std::get<Revocation>(events[0]).end_sequence == 6);
  const auto& joined = std::get<Agreement>(events[1]);
  CHECK(joined.is_void);
  CHECK(joined.sequence == 5);
  REQUIRE(joined.tensors.size() == 1);
  CHECK(joined.tensors[0].name == "w");
  CHECK(joined.tensors[0].step == 4);
  CHECK(joined.tensors[0].signature == compressed());
  for (const auto& down : root.take_outgoing()) leaf.receive(0, down.message, now);
  events = leaf.take_events();
  REQUIRE(events.size() == 1);
  CHECK(std::get<Revocation>(events[0]).first_void_sequence == 5);
  // The leaf's tensor travels again, and gets the step that it had.
  root.submit({"w", compressed()}, now);
  exchange();
  events = leaf.take_events();
  REQUIRE(events.size() == 1);
  CHECK(std::get<Agreement>(events[0]).sequence == 6);
  CHECK(std::get<Agreement>(events[0]).tensors[0].step == 4);
}

TEST_CASE("a rank takes its agreements in the schedule's order, and two ahead of its execution") {
  ScheduledPair world;
  world.leaf.submit({"b", all_reduce()}, world.now);
  CHECK(world.agreements() == 0);
  world.leaf.submit({"a", all_reduce()}, world.now);
  CHECK(world.agreements() == kBacklogMax);
  world.leaf.set_backlog(2);
  world.leaf.submit({"a", all_reduce()}, world.now);
  world.leaf.submit({"b", all_reduce()}, world.now);
  CHECK(world.agreements() == 0);
  world.leaf.set_backlog(1);
  CHECK(world.agreements() == 1);
  CHECK(world.agreements() == 0);  // Not yet said again.
  world.leaf.set_backlog(1);
  CHECK(world.agreements() == 1);
  CHECK(world.left() == "");
}

TEST_CASE("a rank loses patience only while nothing that it has taken could bring the rest") {
  ScheduledPair world;
  world.leaf.submit({"a", all_reduce()}, world.now);
  CHECK(world.agreements() == 1);
  world.leaf.set_backlog(1);
  world.leaf.submit({"a", all_reduce()}, world.now);
  CHECK(world.left() == "");
  world.now += 900ms;
  CHECK(world.left() == "");
  world.leaf.set_backlog(0);
  CHECK(world.left() == "");
  REQUIRE(world.leaf.next_timer());
  CHECK(*world.leaf.next_timer() == world.now + 20ms);
  world.now += 19ms;
  CHECK(world.left() == "");
  world.now += 1ms;
  CHECK_THAT(world.left(), Contains("rank 1 has not submitted tensor b, the next of the schedule, "
                                    "20 ms after others of it (1 wait)"));
  world.now += 1s;
  CHECK(world.left() == "");  // Once.
}

TEST_CASE("an idle steady rank has no timer") {
  ScheduledPair world;
  for (int look = 0; look < 3; ++look) {
    CHECK_FALSE(world.leaf.next_timer());
    world.now += 24h;
    CHECK(world.left() == "");
  }
}

TEST_CASE("an agreement that is not executed for half the stall check time ends the schedule") {
  ScheduledPair world;
  leave_unfinished(world, "a");
  world.now += 29s;
  world.leaf.set_backlog(1);
  CHECK(world.left() == "");
  REQUIRE(world.leaf.next_timer());
  CHECK(*world.leaf.next_timer() == world.now + 1s);
  SECTION("") {
    world.now += 1s;
    CHECK_THAT(world.left(), Contains("agreement 9 has not been executed on rank 1 for 30.0 s"));
  }
  SECTION("but another one that follows has its own time") {
    world.leaf.set_backlog(0);
    world.leaf.submit({"b", all_reduce()}, world.now);
    CHECK(world.agreements() == 1);
    world.leaf.set_backlog(1);
    world.now += 1s;
    CHECK(world.left() == "");
  }
}

TEST_CASE("agreements that are executed one after another keep the schedule, however long") {
  ScheduledPair world;
  for (int turn = 0; turn < 4; ++turn) {
    leave_unfinished(world, turn % 2 == 0 ? "a" : "b");
    world.now += 20s;
  }
}

TEST_CASE("the steady state ends before the stall shutdown time ends the session") {
  ScheduledPair world({.stall_shutdown_time_s = 10.0});
  leave_unfinished(world, "a");
  REQUIRE(world.leaf.next_timer());
  CHECK(*world.leaf.next_timer() == world.now + 5s);
}

TEST_CASE("the steady state ends before a late rank lets a collective run out of time") {
  ScheduledPair world({.stall_check = false, .collective_timeout_s = 10.0});
  leave_unfinished(world, "a");
  REQUIRE(world.leaf.next_timer());
  CHECK(*world.leaf.next_timer() == world.now + 5s);
  world.now += 5s;
  CHECK_THAT(world.left(), Contains("agreement 9 has not been executed on rank 1 for 5.0 s"));
}

TEST_CASE("a rank that does not answer the stop is named, and ends the session in time") {
  Negotiation root({.rank = 0,
                    .size = 3,
                    .stall_check_time_s = 1.0,
                    .stall_shutdown_time_s = 2.0,
                    .steady_steps = 1});
  Negotiation leaves[] = {Negotiation({.rank = 1, .size = 3}), Negotiation({.rank = 2, .size = 3})};
  TimePoint now{1000s};
  for (int step = 0; step < 3; ++step) {
    root.set_backlog(0);
    root.submit({"w", all_reduce()}, now);
    for (const int rank : {1, 2}) {
      Negotiation& leaf = leaves[rank - 1];
      leaf.set_backlog(0);
      leaf.submit({"w", all_reduce()}, now);
      for (const auto& up : leaf.take_outgoing()) root.receive(rank, up.message, now);
    }
    for (const auto& down : root.take_outgoing()) leaves[down.to - 1].receive(0, down.message, now);
    root.take_events();
  }
  root.submit({"x", all_reduce()}, now);
  CHECK(std::holds_alternative<Hold>(root.take_events().at(0)));
  for (const auto& down : root.take_outgoing()) leaves[down.to - 1].receive(0, down.message, now);
  for (const auto& up : leaves[0].take_outgoing()) root.receive(1, up.message, now);
  REQUIRE(root.next_timer());
  CHECK(*root.next_timer() == now + 1s);
  now += 1s;
  root.advance(now);
  auto events = root.take_events();
  REQUIRE_FALSE(events.empty());
  CHECK_THAT(
      std::get<Stall>(events[0]).message,
      Contains("rank 2, or one below, has not answered the end of the steady state for 1.0"));
  root.advance(now);
  CHECK(root.take_events().empty());  // It is told once per stall check time.
  now += 1s;
  root.advance(now);
  events = root.take_events();
  REQUIRE(events.size() == 1);
  CHECK(std::get<SessionEnd>(events[0]).status.code() == StatusCode::timed_out);
  CHECK_THAT(std::get<SessionEnd>(events[0]).status.message(),
             Contains("rank 2") && Contains("SCALECOM_STALL_SHUTDOWN_TIME_SECONDS"));
}
