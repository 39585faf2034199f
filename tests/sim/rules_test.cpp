// The rules of the protocol, one by one: each test is a small world with a known outcome.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "runtime/negotiation/rank_set.hpp"
#include "runtime/negotiation/release_policy.hpp"
#include "tests/sim/small_world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

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
      {[](TensorSignature& s) {
         s.compression = {CompressionMode::sharded, 9, 0.5, 0, DataType::bfloat16, 0.75, 70};
       },
       "sharded (rate 9, beta 0.5, 0 warm-up steps, 70 ramp steps, bfloat16 values, guard 0.75) on "
       "ranks 1, 2"},
      {[](TensorSignature& s) { s.first_step = 3; }, "first step"},
      {[](TensorSignature& s) { s.priority = -7; },
       "priority differs between ranks: 0 on rank 0; -7 on ranks 1, 2. Submit it with the same "
       "priority on every rank"},
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

TEST_CASE("ranks whose compression differs in one figure alone get a mismatch") {
  const auto change = GENERATE(
      +[](Compression& c) { c.mode = CompressionMode::cyclic; },
      +[](Compression& c) { c.rate = 8; }, +[](Compression& c) { c.beta = 0.25; },
      +[](Compression& c) { c.warmup_steps = 4; },
      +[](Compression& c) { c.values = DataType::float16; }, +[](Compression& c) { c.guard = 0.5; },
      +[](Compression& c) { c.ramp_steps = 7; });
  World world(steady(3));
  TensorSignature signature = all_reduce();
  signature.compression = {CompressionMode::sharded, 9, 0.5, 3, DataType::bfloat16, 0.75, 70};
  world.submit(0, "w", signature);
  change(signature.compression);
  for (const int rank : {1, 2}) world.submit(rank, "w", signature);
  CHECK_THAT(mismatch_of(world), Contains("compression differs between ranks"));
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

TEST_CASE("every rank of an all_to_all learns all splits, which may change from call to call") {
  for (const int size : {1, 4, 20, 40}) {
    World world(steady(size));
    const auto split = [](int call, int from, int to) -> std::int64_t {
      return call == 0 ? 3 : (call * 7 + from * 3 + to) % 11;
    };
    for (int call = 0; call < 3; ++call) {
      ExpectedCall expected;
      for (int from = 0; from < size; ++from) {
        for (int to = 0; to < size; ++to) expected.first_extents.push_back(split(call, from, to));
      }
      world.expect("x", expected);
    }
    for (int call = 0; call < 3; ++call) {
      for (int rank = 0; rank < size; ++rank) {
        std::vector<std::int64_t> splits;
        for (int to = 0; to < size; ++to) splits.push_back(split(call, rank, to));
        TensorSignature signature =
            all_reduce({std::accumulate(splits.begin(), splits.end(), std::int64_t{0}), 2});
        signature.kind = OperationKind::all_to_all;
        world.submit(rank, "x", signature, splits);
      }
      world.run();
    }
    world.check_drained(false);
    CHECK(world.violations() == Log{});
    CHECK(world.log_of(size - 1) == Log{"1: x step 0", "2: x step 0", "3: x step 0"});
    CHECK(world.cached_requests(size - 1) == 2);
  }
}

TEST_CASE("ranks that confuse operations with different first extents get a mismatch") {
  const auto submit = [](World& world, int rank, OperationKind kind) {
    TensorSignature signature = all_reduce({world.size(), 2});
    signature.kind = kind;
    const bool has_splits = kind == OperationKind::all_to_all;
    world.submit(rank, "w", signature,
                 std::vector<std::int64_t>(static_cast<std::size_t>(has_splits * world.size()), 1));
  };
  const OperationKind kinds[] = {OperationKind::all_gather, OperationKind::all_to_all,
                                 OperationKind::reduce_scatter};
  // Once the name is known as an all_gather, its requests travel by number.
  const bool is_cached = GENERATE(false, true);
  const int order = GENERATE(0, 1, 2);
  for (const int size : {3, 40}) {
    World world(steady(size));
    for (int rank = 0; is_cached && rank < size; ++rank) submit(world, rank, kinds[0]);
    world.run();
    for (int rank = 0; rank < size; ++rank) submit(world, rank, kinds[(rank + order) % 3]);
    world.run();
    CHECK_THAT(world.log_of(size - 1).back(),
               Contains("operation differs between ranks") && Contains("all_gather on") &&
                   Contains("all_to_all on") && Contains("reduce_scatter on"));
    for (int rank = 0; rank < size; ++rank) submit(world, rank, OperationKind::all_to_all);
    world.run();
    world.check_drained(false);
    CHECK(world.violations() == Log{});
  }
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

TEST_CASE("only agreed calls of compressed tensors are counted, by name") {
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
  submit_everywhere(world, "v", compressed());
  world.run();
  submit_everywhere(world, "w", compressed());
  world.run();
  const Log& log = world.log_of(0);
  REQUIRE(log.size() == 6);
  CHECK(log[1] == "2: dense step 0");
  CHECK(log[2] == "3: w step 0");
  CHECK(log[4] == "4: v step 0");
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

TEST_CASE("what becomes ready while rank 0 executes goes out as one agreement") {
  const TimePoint now{1000s};
  Negotiation node({});
  node.set_backlog(kBacklogMax);
  for (const char* name : {"a", "b", "c"}) {
    node.submit({name, all_reduce()}, now);
    node.advance(now);
    CHECK(node.take_events().empty());
  }
  CHECK_FALSE(node.next_timer());
  TensorSignature barrier;
  barrier.kind = OperationKind::barrier;
  node.submit({"barrier", barrier}, now);
  CHECK(node.take_events().size() == 1);
  node.set_backlog(kBacklogMax - 1);
  const auto events = node.take_events();
  REQUIRE(events.size() == 1);
  CHECK(std::get<Agreement>(events[0]).tensors.size() == 3);
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
  SECTION("all wait while the execution has enough to do, as something urgent may still come") {
    situation.backlog = 1;
    CHECK(ReleasePolicy(-1, 1 << 20).hold_until(situation) <= start);
    situation.backlog = kBacklogMax;
    CHECK(ReleasePolicy(-1, 1 << 20).hold_until(situation) == TimePoint::max());
    CHECK(ReleasePolicy(-1, 1000).hold_until(situation) == TimePoint::max());
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

TEST_CASE("tensors that come when the cache is full are cached in the next generation") {
  WorldOptions options = steady(30);
  options.negotiation.cache_capacity = 3;
  World world(options);
  for (const char* part : {"encoder", "decoder", "head"}) {
    const std::int64_t before = world.cached_requests(29);
    for (int step = 0; step < 10; ++step) {
      for (const char* name : {".a", ".b", ".c"}) {
        submit_everywhere(world, std::string(part) + name, all_reduce());
      }
      world.run();
    }
    // All but the first two steps: one to miss the full table, one to fill the next.
    CHECK(world.cached_requests(29) - before >= 8 * 3);
  }
}

TEST_CASE("a changed signature travels in full once and replaces the cached one") {
  World world(steady(3));
  std::vector<std::int64_t> cached;
  for (const std::int64_t extent : {4, 4, 5, 5, 5, 4, 4}) {
    submit_everywhere(world, "w", all_reduce({extent}));
    world.run();
    cached.push_back(world.cached_requests(2));
  }
  world.check_drained(false);
  CHECK(world.violations() == Log{});
  CHECK(cached == std::vector<std::int64_t>{0, 1, 1, 2, 3, 3, 4});
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
