// The simulation must notice what it is there for.
#include <algorithm>
#include <utility>

#include "tests/sim/workload.hpp"
#include "tests/sim/world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::sim;
using namespace std::chrono_literals;

namespace {

using Tamper = std::function<void(int, std::vector<NegotiationEvent>&)>;

std::vector<std::string> violations_with(const Tamper& tamper) {
  WorldOptions options;
  options.size = 6;
  options.seed = 42;
  options.negotiation.cycle_time_ms = 0;
  options.tamper = tamper;
  World world(options);
  WorkloadOptions load;
  load.mismatches = 0.2;
  load.is_pipelined = true;
  Workload workload(world, load);
  workload.start();
  world.run();
  world.check_drained(false);
  return world.violations();
}

}  // namespace

TEST_CASE("a world without a fault is sound") {
  CHECK(violations_with(nullptr) == std::vector<std::string>{});
}

TEST_CASE("the simulation notices two agreements that are swapped on one rank") {
  bool is_swapped = false;
  const auto violations = violations_with([&](int rank, std::vector<NegotiationEvent>& events) {
    if (rank != 3 || is_swapped || events.size() < 2) return;
    auto* first = std::get_if<Agreement>(&events[0]);
    auto* second = std::get_if<Agreement>(&events[1]);
    if (first == nullptr || second == nullptr) return;
    std::swap(first->tensors, second->tensors);  // The sequence numbers look right.
    is_swapped = true;
  });
  CHECK(is_swapped);
  CHECK_FALSE(violations.empty());
}

TEST_CASE("the simulation notices an agreement that goes against the priorities") {
  const auto violations = violations_with([](int, std::vector<NegotiationEvent>& events) {
    for (NegotiationEvent& event : events) {
      auto* agreement = std::get_if<Agreement>(&event);
      if (agreement != nullptr) std::reverse(agreement->tensors.begin(), agreement->tensors.end());
    }
  });
  REQUIRE_FALSE(violations.empty());
  CHECK_THAT(violations[0], Catch::Contains("after a tensor of lower priority"));
}

TEST_CASE("the simulation notices a step that a rank counts by itself") {
  std::map<std::string, std::int64_t> calls;
  const auto violations = violations_with([&](int rank, std::vector<NegotiationEvent>& events) {
    if (rank != 3) return;
    for (NegotiationEvent& event : events) {
      if (const auto* mismatch = std::get_if<Mismatch>(&event)) ++calls[mismatch->name];
      auto* agreement = std::get_if<Agreement>(&event);
      if (agreement == nullptr) continue;
      for (AgreedTensor& tensor : agreement->tensors) {
        const std::int64_t count = calls[tensor.name]++;
        const bool is_compressed = tensor.signature.compression.mode != CompressionMode::none;
        if (is_compressed) tensor.step = tensor.signature.first_step + count;
      }
    }
  });
  CHECK_FALSE(violations.empty());
}

TEST_CASE("the simulation notices a decision that a rank does not get") {
  bool is_dropped = false;
  const auto violations = violations_with([&](int rank, std::vector<NegotiationEvent>& events) {
    if (rank != 3 || is_dropped || events.empty()) return;
    events.pop_back();
    is_dropped = true;
  });
  CHECK(is_dropped);
  CHECK_FALSE(violations.empty());
}
