// Which of the tensors that are ready goes next, and how many go together.
#include <algorithm>
#include <limits>
#include <map>

#include "tests/sim/small_world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

TensorSignature with_priority(std::int32_t priority, TensorSignature signature = all_reduce()) {
  signature.priority = priority;
  return signature;
}

/// Rank 0 of one, which decides at once; the test plays the execution.
struct Lone {
  TimePoint now{1000s};
  Negotiation node;

  explicit Lone(std::int64_t threshold_bytes)
      : node({.fusion_threshold_bytes = threshold_bytes, .cycle_time_ms = 0}) {}

  void submit(const std::string& name, TensorSignature signature) {
    node.submit({name, std::move(signature)}, now);
    node.advance(now);
  }
  /// The agreements that go out while so many are not finished: "a b", "c".
  Log agreements(std::size_t backlog) {
    node.set_backlog(backlog);
    Log log;
    for (const NegotiationEvent& event : node.take_events()) {
      const auto* agreement = std::get_if<Agreement>(&event);
      if (agreement == nullptr) continue;
      log.emplace_back();
      for (const AgreedTensor& tensor : agreement->tensors) {
        log.back() += (log.back().empty() ? "" : " ") + tensor.name;
      }
    }
    return log;
  }
};

/// Every agreement holds one tensor and takes 50 to 100 us.
WorldOptions one_by_one(int size) {
  WorldOptions options = steady(size);
  options.negotiation.cycle_time_ms = 0;
  options.negotiation.fusion_threshold_bytes = 16;
  options.execution_max = 100us;
  return options;
}

void require_sound(World& world) {
  world.check_drained(false);
  REQUIRE(world.violations() == Log{});
}

}  // namespace

TEST_CASE(
    "what is ready goes by priority, and equal ones in the order in which they became ready") {
  Lone lone(1 << 20);
  lone.node.set_backlog(kBacklogMax);
  lone.submit("a", with_priority(0));
  lone.submit("b", with_priority(5));
  lone.submit("c", with_priority(0, compressed()));
  lone.submit("d", with_priority(5, compressed()));
  lone.submit("e", with_priority(std::numeric_limits<std::int32_t>::min()));
  lone.submit("f", with_priority(std::numeric_limits<std::int32_t>::max()));
  lone.submit("g", with_priority(0));
  CHECK(lone.agreements(0) == Log{"f b d a c g e"});
}

TEST_CASE("a late tensor of high priority overtakes all that are not agreed on yet") {
  const int size = GENERATE(2, 40);
  World world(one_by_one(size));
  for (int tensor = 0; tensor < 20; ++tensor) {
    submit_everywhere(world, "low" + std::to_string(tensor), with_priority(-1));
  }
  world.run(200us);
  const std::size_t executed = world.log_of(size - 1).size();
  REQUIRE(executed < 10);
  submit_everywhere(world, "urgent", with_priority(1));
  world.run();
  require_sound(world);
  const Log log = world.log_of(size - 1);
  const auto urgent = std::find_if(log.begin(), log.end(), [](const std::string& line) {
    return line.find("urgent") != std::string::npos;
  });
  // Behind what was executed, what was agreed on, and what came while its request was under way.
  CHECK(urgent - log.begin() >= static_cast<std::ptrdiff_t>(executed));
  CHECK(urgent - log.begin() <= static_cast<std::ptrdiff_t>(executed + kBacklogMax + 3));
  CHECK_THAT(log.back(), Contains("low19"));
}

TEST_CASE("an agreement holds at most the threshold, or one tensor, and the rest waits its turn") {
  Lone lone(100);
  lone.node.set_backlog(kBacklogMax);
  const auto of_bytes = [](std::int64_t bytes) { return all_reduce({bytes / 4}); };
  lone.submit("a40", of_bytes(40));
  lone.submit("b60", of_bytes(60));
  lone.submit("c40", of_bytes(40));
  lone.submit("d200", of_bytes(200));
  lone.submit("e4", of_bytes(4));
  lone.submit("f100", of_bytes(100));
  lone.submit("g0", of_bytes(0));
  SECTION("no more go out than the execution is to be ahead") {
    CHECK(lone.agreements(kBacklogMax) == Log{});
    CHECK(lone.agreements(kBacklogMax - 1) == Log{"a40 b60"});
    CHECK(lone.agreements(kBacklogMax) == Log{});
    // A small one does not overtake a large one.
    CHECK(lone.agreements(0) == Log{"c40", "d200"});
    CHECK(lone.agreements(1) == Log{"e4"});
    CHECK(lone.agreements(1) == Log{"f100 g0"});
    CHECK(lone.agreements(0) == Log{});
  }
  SECTION("what becomes ready later takes its place by priority") {
    CHECK(lone.agreements(1) == Log{"a40 b60"});
    lone.submit("late60", with_priority(1, of_bytes(60)));
    CHECK(lone.agreements(1) == Log{"late60 c40"});
  }
  SECTION("a shutdown lets all go, cut alike") {
    lone.node.end_session(Status(StatusCode::shut_down, "bye"), lone.now);
    CHECK(lone.agreements(kBacklogMax) == Log{"a40 b60", "c40", "d200", "e4", "f100 g0"});
  }
}

TEST_CASE("without fusion every tensor is an agreement of its own") {
  Lone lone(0);
  lone.submit("a", all_reduce());
  lone.submit("b", all_reduce({0}));
  lone.submit("c", with_priority(1));
  CHECK(lone.agreements(0) == Log{"a", "b"});
  CHECK(lone.agreements(0) == Log{"c"});
}

TEST_CASE("a compressed tensor counts with all its bytes in its warm-up steps") {
  Lone lone(4000);
  TensorSignature warming = compressed();
  warming.compression.warmup_steps = 1;
  const Log expected[] = {Log{"v", "w"}, Log{"v w"}};
  for (const Log& log : expected) {
    lone.node.set_backlog(kBacklogMax);
    lone.submit("v", warming);
    lone.submit("w", warming);
    CHECK(lone.agreements(0) == log);
  }
}

TEST_CASE("a tensor of which a device has yet to decide counts with all its bytes") {
  Lone lone(4000);
  TensorSignature open = compressed();
  open.compression.mode = CompressionMode::automatic;
  open.compression.warmup_steps = 0;
  lone.node.set_backlog(kBacklogMax);
  lone.submit("v", open);
  lone.submit("w", open);
  CHECK(lone.agreements(0) == Log{"v", "w"});
}

TEST_CASE("a priority that changes travels in full once and holds from then on") {
  World world(steady(3));
  std::vector<std::int64_t> cached;
  for (const std::int32_t priority : {-1, -1, 1, 1, -1, -1}) {
    submit_everywhere(world, "a", all_reduce());
    submit_everywhere(world, "w", with_priority(priority));
    world.run();
    cached.push_back(world.cached_requests(2));
  }
  require_sound(world);
  CHECK(cached == std::vector<std::int64_t>{0, 2, 3, 5, 6, 8});
  CHECK(world.log_of(2) == Log{"1: a step 0", "1: w step 0", "2: a step 0", "2: w step 0",
                               "3: w step 0", "3: a step 0", "4: w step 0", "4: a step 0",
                               "5: a step 0", "5: w step 0", "6: a step 0", "6: w step 0"});
}

TEST_CASE("the steady state keeps to the priorities, and ends where one changes") {
  WorldOptions options = steady(20);
  options.negotiation.steady_steps = 3;
  World world(options);
  const auto run_steps = [&](int steps, std::int32_t priority) {
    for (int step = 0; step < steps; ++step) {
      submit_everywhere(world, "a", with_priority(1));
      submit_everywhere(world, "b", with_priority(priority));
      submit_everywhere(world, "c", with_priority(3, compressed()));
      world.run(10ms);
    }
  };
  run_steps(10, 2);
  CHECK(world.steady(19).agreements == 6);
  CHECK(world.log_of(19).back() == "10: a step 0");
  CHECK(world.log_of(19).end()[-2] == "10: b step 0");
  CHECK(world.log_of(19).end()[-3] == "10: c step 9");
  run_steps(20, 0);
  require_sound(world);
  CHECK(world.steady(19).leaves == 1);
  CHECK_THAT(world.steady(19).last_reason, Contains("tensor b with priority 0 instead of 2"));
  CHECK(world.steady(19).agreements > 6);
  CHECK_THAT(world.log_of(19).back(), Contains(": b step 0"));
}

TEST_CASE("steps of more bytes than an agreement holds become a schedule, too") {
  WorldOptions options = one_by_one(4);
  options.negotiation.steady_steps = 3;
  World world(options);
  const auto run_step = [&] {
    for (int tensor = 0; tensor < 10; ++tensor) {
      submit_everywhere(world, "t" + std::to_string(tensor), with_priority(tensor));
    }
    world.run(20ms);
  };
  for (int step = 0; step < 4; ++step) run_step();
  const std::int64_t messages = world.traffic(3).messages;
  for (int step = 0; step < 5; ++step) run_step();
  require_sound(world);
  CHECK(world.traffic(3).messages == messages);
  CHECK(world.steady(3).agreements == 5 * 10);
  CHECK(world.steady(3).leaves == 0);
}

TEST_CASE("priorities cost no bytes once the names are known") {
  constexpr int kTensors = 160;
  constexpr int kSize = 4;
  std::vector<std::int64_t> bytes;
  for (const bool has_priorities : {false, true}) {
    World world(steady(kSize));
    std::int64_t before = 0;
    for (int step = 0; step < 3; ++step) {
      before = 0;
      for (int rank = 0; rank < kSize; ++rank) before += world.traffic(rank).bytes;
      // A backward pass: each is needed sooner than those before.
      for (int tensor = 0; tensor < kTensors; ++tensor) {
        submit_everywhere(world, "t" + std::to_string(tensor),
                          with_priority(has_priorities ? tensor : 0));
      }
      world.run();
    }
    bytes.push_back(-before);
    for (int rank = 0; rank < kSize; ++rank) bytes.back() += world.traffic(rank).bytes;
    CHECK_THAT(world.log_of(3).back(), Contains(has_priorities ? "t0 step" : "t159 step"));
  }
  CHECK(bytes[0] > 0);
  CHECK(bytes[1] == bytes[0]);
}

TEST_CASE("no schedule starts while something that is ready waits its turn") {
  WorldOptions options = one_by_one(2);
  options.negotiation.steady_steps = 3;
  World world(options);
  constexpr int kTensors = 5;
  constexpr int kCalls = 20;
  // Each tensor is submitted again as soon as it is complete, while others are queued.
  std::map<std::pair<int, std::string>, int> calls;
  const auto submit = [&](int rank, const std::string& name) {
    if (++calls[{rank, name}] <= kCalls) world.submit(rank, name, all_reduce());
  };
  world.on_completion(submit);
  for (int tensor = 0; tensor < kTensors; ++tensor) {
    for (const int rank : {0, 1}) submit(rank, "t" + std::to_string(tensor));
  }
  world.run();
  require_sound(world);
  CHECK(world.log_of(1).size() == kTensors * kCalls);
}
