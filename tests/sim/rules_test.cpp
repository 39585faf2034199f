// The rules of the protocol, one by one: each test is a small world with a known outcome.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/negotiation/rank_set.hpp"
#include "runtime/negotiation/release_policy.hpp"
#include "tests/sim/world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

WorldOptions steady(int size) {
  WorldOptions options;
  options.size = size;
  options.delay_min = options.delay_max = 20us;
  return options;
}

TensorSignature all_reduce(Shape shape = {4}) {
  TensorSignature signature;
  signature.shape = std::move(shape);
  return signature;
}

TensorSignature compressed(std::int64_t first_step = 0) {
  TensorSignature signature = all_reduce({1000});
  signature.compression.mode = CompressionMode::cyclic;
  signature.first_step = first_step;
  return signature;
}

void submit_everywhere(World& world, const std::string& name, const TensorSignature& signature) {
  for (int rank = 0; rank < world.size(); ++rank) world.submit(rank, name, signature);
}

using Log = std::vector<std::string>;

std::string mismatch_of(World& world) {
  world.run();
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  REQUIRE(world.log_of(0).size() == 1);
  return world.log_of(0)[0];
}

}  // namespace

TEST_CASE("one rank alone agrees with itself at once and sends nothing") {
  World world(steady(1));
  world.submit(0, "w", compressed(5));
  world.submit(0, "b", all_reduce());
  world.run();
  world.submit(0, "w", compressed(5));
  world.run();
  world.end_session(0, Status(StatusCode::shut_down, "bye"));
  world.run();
  world.check_drained(true);
  CHECK(world.violations() == Log{});
  CHECK(world.log_of(0) == Log{"1: w step 5", "1: b step 0", "2: w step 6"});
  CHECK(world.cached_requests(0) == 1);
  CHECK(world.traffic(0).messages == 0);
  CHECK(world.end_of(0)->message() == "bye");
}

TEST_CASE("a mismatch names the tensor, the field, the ranks and the values") {
  World world(steady(5));
  for (int rank = 0; rank < 5; ++rank) {
    world.submit(rank, "w", all_reduce(rank == 3 ? Shape{5} : Shape{4}));
  }
  CHECK_THAT(mismatch_of(world), Contains("tensor w: shape differs between ranks: [4] on ranks 0-2 "
                                          "and 4; [5] on rank 3. Submit it with the same shape on "
                                          "every rank"));
}

TEST_CASE("a mismatch names every field that differs") {
  struct Case {
    void (*change)(TensorSignature&);
    const char* text;
  };
  const Case cases[] = {
      {[](TensorSignature& s) { s.dtype = DataType::float16; }, "dtype differs"},
      {[](TensorSignature& s) { s.dtype = DataType::float16; }, "float32 on rank 0; float16 on"},
      {[](TensorSignature& s) { s.op = ReduceOp::max; }, "op differs between ranks: sum on rank 0"},
      {[](TensorSignature& s) { s.kind = OperationKind::broadcast; }, "broadcast on ranks 1, 2"},
      {[](TensorSignature& s) { s.root = 2; }, "root differs between ranks: 0 on rank 0; 2 on"},
      {[](TensorSignature& s) { s.device = DeviceKind::cuda; }, "host on rank 0; cuda on"},
      {[](TensorSignature& s) { s.prescale = 0.25; }, "prescale differs between ranks: 1 on rank "},
      {[](TensorSignature& s) { s.postscale = 0.1; }, "0.1 on ranks 1, 2"},
      {[](TensorSignature& s) { s.compression.mode = CompressionMode::cyclic; },
       "compression differs between ranks: none on rank 0; cyclic (rate 100, beta 1, 0 warm-up"},
      {[](TensorSignature& s) { s.first_step = 3; }, "first step"},
      {[](TensorSignature& s) { s.process_set = 1; }, "process set differs"},
      {[](TensorSignature& s) { s.shape.push_back(1); }, "[4] on rank 0; [4, 1] on"},
  };
  for (const Case& one : cases) {
    World world(steady(3));
    world.submit(0, "w", all_reduce());
    for (const int rank : {1, 2}) {
      TensorSignature odd = all_reduce();
      one.change(odd);
      world.submit(rank, "w", odd);
    }
    CHECK_THAT(mismatch_of(world), Contains("tensor w: ") && Contains(one.text));
  }
}

TEST_CASE("a mismatch among 200 ranks with 200 shapes stays a short message") {
  World world(steady(200));
  for (int rank = 0; rank < 200; ++rank) world.submit(rank, "w", all_reduce({rank + 1, rank}));
  const std::string message = mismatch_of(world);
  CHECK(message.size() < 1000);
  CHECK_THAT(message,
             Contains("[1, 0] on rank 0; [2, 1] on rank 1;") && Contains("and 192 other values"));
}

TEST_CASE("ranks whose shapes differ in a tree's subtrees are named in ranges") {
  World world(steady(100));
  for (int rank = 0; rank < 100; ++rank) {
    world.submit(rank, "w", all_reduce({rank >= 40 && rank < 71 ? 8 : 9}));
  }
  CHECK_THAT(mismatch_of(world), Contains("[9] on ranks 0-39 and 71-99; [8] on ranks 40-70"));
}

TEST_CASE("a mismatch waits until every rank has a request to fail, and the session goes on") {
  World world(steady(3));
  world.submit(0, "w", all_reduce({4}));
  world.submit(1, "w", all_reduce({5}));
  world.run(10ms);
  CHECK(world.log_of(0).empty());
  world.submit(2, "w", all_reduce({4}));
  world.run(10ms);
  CHECK(world.log_of(0).size() == 1);
  submit_everywhere(world, "w", all_reduce({4}));
  world.run(10ms);
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  CHECK(world.log_of(2).back() == "1: w step 0");
}

TEST_CASE("an all_gather may differ in the first extent only, and every rank learns them all") {
  World world(steady(20));
  ExpectedCall expected;
  for (int rank = 0; rank < 20; ++rank) expected.first_extents.push_back(rank * rank);
  for (int call = 0; call < 2; ++call) world.expect("g", expected);
  for (int call = 0; call < 2; ++call) {
    for (int rank = 0; rank < 20; ++rank) {
      TensorSignature signature = all_reduce({rank * rank, 3});
      signature.kind = OperationKind::all_gather;
      world.submit(rank, "g", signature);
    }
    world.run();
  }
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  CHECK(world.log_of(19) == Log{"1: g step 0", "2: g step 0"});
  CHECK(world.cached_requests(7) == 1);
}

TEST_CASE("steps count on from first_step and start again where it changes") {
  World world(steady(2));
  for (const std::int64_t first : {0, 0, 100, 100, 0}) {
    submit_everywhere(world, "w", compressed(first));
    world.run();
  }
  CHECK(world.log_of(1) ==
        Log{"1: w step 0", "2: w step 1", "3: w step 100", "4: w step 101", "5: w step 0"});
}

TEST_CASE("only agreed calls of compressed tensors are counted, by process set and name") {
  World world(steady(2));
  submit_everywhere(world, "dense", all_reduce());
  world.run();
  submit_everywhere(world, "dense", all_reduce());
  world.run();
  submit_everywhere(world, "w", compressed());
  world.run();
  world.submit(0, "w", compressed());
  world.submit(1, "w", all_reduce());
  world.run();
  TensorSignature other = compressed();
  other.process_set = 1;
  submit_everywhere(world, "w", other);
  world.run();
  submit_everywhere(world, "w", compressed());
  world.run();
  const Log& log = world.log_of(0);
  REQUIRE(log.size() == 6);
  CHECK(log[1] == "2: dense step 0");
  CHECK(log[2] == "3: w step 0");
  CHECK(log[4] == "4: w step 0");
  CHECK(log[5] == "5: w step 1");
}

TEST_CASE("a late rank delays only its own tensor") {
  World world(steady(4));
  for (const int rank : {0, 1, 3}) world.submit(rank, "late", all_reduce());
  world.run(100ms);
  for (std::size_t call = 1; call <= 3; ++call) {
    submit_everywhere(world, "other", all_reduce());
    world.run(60us);  // Two hops, without a wait for the tensor that does not come.
    CHECK(world.log_of(3).size() == call);
  }
  world.submit(2, "late", all_reduce());
  world.run(10ms);
  CHECK(world.log_of(2).size() == 4);
}

TEST_CASE("ready tensors wait for those on their way and are released with them") {
  WorldOptions options = steady(2);
  options.negotiation.cycle_time_ms = 5;
  World world(options);
  world.submit(0, "b", all_reduce());
  submit_everywhere(world, "a", all_reduce());
  world.run(1ms);
  CHECK(world.log_of(0).empty());
  SECTION("which end the wait") {
    world.submit(1, "b", all_reduce());
    world.run(100us);
    CHECK(world.log_of(1) == Log{"1: a step 0", "1: b step 0"});
  }
  SECTION("but not for longer than the cycle time") {
    world.run(5ms);
    CHECK(world.log_of(1) == Log{"1: a step 0"});
  }
  SECTION("and a barrier overtakes them") {
    TensorSignature barrier;
    barrier.kind = OperationKind::barrier;
    submit_everywhere(world, "barrier", barrier);
    world.run(100us);
    CHECK(world.log_of(1) == Log{"1: barrier step 0"});
  }
  SECTION("and a shutdown releases them first") {
    world.end_session(1, Status(StatusCode::shut_down, "rank 1 called shutdown()"));
    world.run(1ms);
    world.check_drained(true);
    CHECK(world.log_of(0) == Log{"1: a step 0"});
    CHECK(world.end_of(0)->message() == "rank 1 called shutdown()");
  }
}

TEST_CASE("release policy: when ready tensors wait, and until when") {
  using negotiation::ReleasePolicy;
  const TimePoint start{1000s};
  negotiation::ReleaseSituation situation;
  situation.ready_bytes = 1000;
  situation.ready_since = start;
  situation.last_arrival = start + 30us;

  SECTION("nothing waits when all known tensors are in") {
    CHECK(ReleasePolicy(-1, 1 << 20).hold_until(situation) <= start);
    CHECK(ReleasePolicy(1000, 1 << 20).hold_until(situation) <= start);
  }
  situation.youngest_partial = start + 20us;
  SECTION("nothing waits once the threshold is reached, nor without fusion") {
    CHECK(ReleasePolicy(-1, 1000).hold_until(situation) <= start);
    CHECK(ReleasePolicy(-1, 0).hold_until(situation) <= start);
  }
  SECTION("a fixed cycle time counts from the first that is ready") {
    CHECK(ReleasePolicy(3, 1001).hold_until(situation) == start + 3ms);
    CHECK(ReleasePolicy(0, 1001).hold_until(situation) <= start + 20us);
  }
  SECTION("adaptive: until nothing has come for a while, and bounded") {
    CHECK(ReleasePolicy(-1, 1001).hold_until(situation) == start + 130us);
    situation.last_arrival = start + 990us;
    CHECK(ReleasePolicy(-1, 1001).hold_until(situation) == start + 1ms);
  }
  SECTION("a tensor that is partly submitted for long holds nothing up") {
    situation.youngest_partial = start - 2ms;
    CHECK(ReleasePolicy(-1, 1001).hold_until(situation) <= start);
    CHECK(ReleasePolicy(1.5, 1001).hold_until(situation) <= start);
  }
}

TEST_CASE("a stall is told once per stall check time, by rank 0, with who is missing") {
  const int size = GENERATE(4, 40);
  WorldOptions options = steady(size);
  options.negotiation.stall_check_time_s = 1.0;
  World world(options);
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
  WorldOptions options = steady(100);
  options.negotiation.stall_check_time_s = 1.0;
  World world(options);
  world.submit(77, "lonely", all_reduce());
  world.run(1100ms);
  REQUIRE(world.stalls().size() == 1);
  CHECK_THAT(
      world.stalls()[0].second,
      Contains("lonely: ranks 0-76 and 78-99 have not submitted it") && Contains("(rank 77 did)"));
  // Ranks that follow later are seen in the next report.
  for (int rank = 10; rank < 20; ++rank) world.submit(rank, "lonely", all_reduce());
  world.run(1s);
  REQUIRE(world.stalls().size() == 2);
  CHECK_THAT(world.stalls()[1].second, Contains("(ranks 10-19 and 77 did)"));
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
    CHECK(world.end_of(rank) ==
          Status(StatusCode::rank_lost, fmt::format("rank {} is lost: connection closed", lost)));
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
  node.advance(*node.next_timer());
  const auto events = node.take_events();
  REQUIRE(events.size() == 1);
  CHECK_THAT(std::get<SessionEnd>(events[0]).status.message(),
             Contains(fmt::format("rank {} is lost: no answer for 5 s", tree.children[2])));
  CHECK(node.take_outgoing().size() == 9);  // To the children, and to the parent in case it lives.
  CHECK(*std::max_element(tree.children.begin(), tree.children.end()) < tree.subtree_end);
}

TEST_CASE("a full cache starts again and never confuses numbers") {
  WorldOptions options = steady(30);
  options.negotiation.cache_capacity = 3;
  World world(options);
  for (int step = 0; step < 30; ++step) {
    for (int tensor = 0; tensor < 5; ++tensor) {
      submit_everywhere(world, "t" + std::to_string(tensor), compressed());
    }
    world.run();
  }
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  CHECK(world.log_of(0).size() == 150);
  CHECK_THAT(world.log_of(29).back(), Contains("step 29"));
  // At least half of what a table that is never given up would serve.
  CHECK(world.cached_requests(29) >= 30 * 3 / 2);
}

TEST_CASE("sets of ranks are described in ranges, in bounded length") {
  using negotiation::RankSet;
  RankSet ranks;
  CHECK(ranks.is_empty());
  ranks.add({4, 5});
  CHECK(describe(ranks) == "rank 4");
  ranks.add({6, 8});
  CHECK(describe(ranks) == "ranks 4 and 6, 7");
  ranks.add({5, 6});
  CHECK(describe(ranks) == "ranks 4-7");
  CHECK(describe(ranks.complement(10)) == "ranks 0-3 and 8, 9");
  ranks.add({0, 10});
  CHECK(ranks.complement(10).is_empty());
  CHECK(ranks.count() == 10);
  RankSet many;
  for (int rank = 0; rank < 100; rank += 2) many.add({rank, rank + 1});
  CHECK(describe(many) == "ranks 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22 and 38 more");
}
