#include "runtime/compression_plan.hpp"

#include <limits>

#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

constexpr std::int64_t kCount = 1'000'000;

/// A link of `bytes_per_s` and 1 ms a step, and passes of a nanosecond an element.
PlanCosts costs_of(double bytes_per_s, std::int64_t threshold_bytes = 0) {
  return {.ranks = 4,
          .fusion_threshold_bytes = threshold_bytes,
          .kernels = {.swept_elements_per_s = 1e9,
                      .filled_elements_per_s = 1e9,
                      .taken_elements_per_s = 1e8},
          .all_reduce_time_s = [bytes_per_s](std::int64_t bytes) {
            return 1e-3 + static_cast<double>(bytes) / bytes_per_s;
          }};
}

Compression automatic(std::int64_t rate = 100) {
  return {CompressionMode::automatic, rate, 1.0, 0};
}

const CompressionExplanation::Alternative& find(const CompressionExplanation& explanation,
                                                CompressionMode mode) {
  for (const auto& alternative : explanation.alternatives) {
    if (alternative.mode == mode) return alternative;
  }
  throw std::runtime_error("there is no such alternative");
}

}  // namespace

TEST_CASE("auto compresses on a slow link and not on a fast one") {
  const auto slow = plan_compression(kCount, DataType::float32, automatic(), costs_of(1e8));
  CHECK(slow.mode == CompressionMode::sharded);
  CHECK(slow.rate == 100);
  CHECK(slow.selected == 10'000);
  CHECK_THAT(slow.reason, Contains("dense takes 41000.0 us") && Contains("passes"));
  const auto fast = plan_compression(kCount, DataType::float32, automatic(), costs_of(1e11));
  CHECK(fast.mode == CompressionMode::none);
  CHECK(fast.rate == 1);
  CHECK(fast.selected == kCount);
  for (const auto* explanation : {&slow, &fast}) {
    for (const auto& alternative : explanation->alternatives) {
      CHECK(alternative.is_chosen == (alternative.mode == explanation->mode));
    }
  }
}

TEST_CASE("a tensor alone takes its passes and its two exchanges, by the model") {
  const auto explanation = plan_compression(kCount, DataType::float32, automatic(), costs_of(1e8));
  CHECK(find(explanation, CompressionMode::none).time_us == Approx(1e3 + 40e3));
  // 5 us; passes 2 x 1 ms; half of an all-reduce of 10,000 offsets; one of 10,001 values of 4
  // bytes.
  CHECK(find(explanation, CompressionMode::sharded).time_us ==
        Approx(5 + 2e3 + 0.5 * (1e3 + 100) + 1e3 + 400.04));
  // Another pass before a round of 4 million elements is full; 4/6 of an all-reduce.
  CHECK(find(explanation, CompressionMode::cyclic).time_us ==
        Approx(5 + 3e3 + 4.0 / 6 * (1e3 + 100) + 1e3 + 400.04));
}

TEST_CASE("in a batch a tensor pays for its bytes, and not for the steps that all share") {
  const auto small = plan_compression(5000, DataType::float32, automatic(), costs_of(1e8, 1 << 26));
  CHECK(find(small, CompressionMode::none).time_us == Approx(200).epsilon(0.01));
  CHECK(small.mode == CompressionMode::sharded);
  const auto alone = plan_compression(5000, DataType::float32, automatic(), costs_of(1e8));
  CHECK(alone.mode == CompressionMode::none);
}

TEST_CASE("a compressed tensor costs something however small it is") {
  const PlanCosts costs = costs_of(1e9, 1 << 26);
  const auto tiny = plan_compression(1000, DataType::float32, automatic(), costs);
  CHECK(find(tiny, CompressionMode::sharded).time_us > 5);
  CHECK(tiny.mode == CompressionMode::none);
  CHECK(plan_compression(10'000, DataType::float32, automatic(), costs).mode ==
        CompressionMode::sharded);
}

TEST_CASE("milder rates take more: each selected element is work") {
  const PlanCosts costs = costs_of(1e9, 0);
  const auto passes_us = [&](std::int64_t rate) {
    // What is left without the exchanges: half of one of N/C bytes, and one of 4 N/C + 1.
    const auto explanation = plan_compression(kCount, DataType::float32, automatic(rate), costs);
    const auto k = static_cast<double>(
        explanation.mode == CompressionMode::none ? kCount / rate : explanation.selected);
    return find(explanation, CompressionMode::sharded).time_us - 5 - 1500 - 4.5e-3 * k - 1e-3;
  };
  CHECK(passes_us(100) == Approx(2e3));
  // 10 ns for each selected element more than at C = 100.
  CHECK(passes_us(2) == Approx(2e3 + 1e-2 * (500'000 - 10'000)));
  CHECK(passes_us(200) == Approx(2e3 - 1e-2 * 5'000));
}

TEST_CASE("between hosts rounds overlap, and inside a host nothing does") {
  constexpr std::int64_t kTwoRounds = std::int64_t{1} << 23;
  PlanCosts costs = costs_of(1e8, 1 << 30);
  const auto sharded_us = [&](std::int64_t count) {
    const auto explanation = plan_compression(count, DataType::float32, automatic(), costs);
    return find(explanation, CompressionMode::sharded).time_us;
  };
  const double alone_us = sharded_us(kTwoRounds);
  const double one_round_us = sharded_us(kTwoRounds / 2);
  costs.overlaps = true;
  const double exchanges_us = 1.5e3 + (0.5 + 4) * 83'887 / 1e2;
  // Half of what is shorter, the exchanges, is behind the other round's passes.
  CHECK(sharded_us(kTwoRounds) == Approx(alone_us - exchanges_us / 2).epsilon(1e-4));
  CHECK(sharded_us(kTwoRounds / 2) == Approx(one_round_us));
}

TEST_CASE("bytes are those of the ring: values, the flag and offsets, by the ranks that lead") {
  const auto narrow =
      plan_compression(kCount, DataType::bfloat16,
                       {CompressionMode::cyclic, 400, 1.0, 0, DataType::float16}, costs_of(1e9));
  CHECK(narrow.mode == CompressionMode::cyclic);
  CHECK(find(narrow, CompressionMode::none).bytes_sent == Approx(2 * 0.75 * 2 * kCount));
  CHECK(find(narrow, CompressionMode::cyclic).bytes_sent ==
        Approx(0.75 * (2 * (2500 * 2 + 1) + 2 * 2500)));
}

TEST_CASE("one rank never compresses by itself, and a named mode is what it says") {
  PlanCosts alone = costs_of(1e6);
  alone.ranks = 1;
  const auto automatic_alone = plan_compression(kCount, DataType::float32, automatic(), alone);
  CHECK(automatic_alone.mode == CompressionMode::none);
  CHECK_THAT(automatic_alone.reason, Contains("one rank"));
  Compression named{CompressionMode::cyclic, 2, 1.0, 5};
  named.ramp_steps = 7;
  const auto explanation = plan_compression(kCount, DataType::float32, named, costs_of(1e12));
  CHECK(explanation.mode == CompressionMode::cyclic);
  CHECK_THAT(explanation.reason,
             Contains("cyclic") && Contains("first 5 steps") && Contains("7 steps after"));
  Compression none;
  none.rate = 0;  // It means nothing.
  const auto dense = plan_compression(kCount, DataType::float64, none, costs_of(1e6));
  CHECK(dense.mode == CompressionMode::none);
  CHECK(dense.alternatives.size() == 1);
  CHECK(plan_compression(0, DataType::float32, automatic(), costs_of(1e6, 0)).mode ==
        CompressionMode::none);
}

TEST_CASE("without rounds a tensor's latency is shared by all that travels with it") {
  PlanCosts costs = costs_of(1e9, 1 << 28);
  const auto in_rounds = plan_compression(kCount, DataType::float32, automatic(), costs);
  costs.round_elements = std::numeric_limits<std::int64_t>::max();
  const auto whole = plan_compression(kCount, DataType::float32, automatic(), costs);
  // 64 million elements and a latency of 1 ms, of which a million has its share.
  CHECK(find(whole, CompressionMode::none).time_us == Approx(4e3 + 1e3 / 67.108864));
  CHECK(find(in_rounds, CompressionMode::none).time_us == Approx(4e3 + 1e3 / 4.194304));
}

TEST_CASE("auto is dense where nothing was measured, and says so") {
  PlanCosts costs = costs_of(1e8);
  costs.why_dense = "nobody has looked";
  const auto explanation = plan_compression(kCount, DataType::float32, automatic(), costs);
  CHECK(explanation.mode == CompressionMode::none);
  CHECK_THAT(explanation.reason, Contains("auto: dense, as nobody has looked"));
  const Compression asked_for{CompressionMode::sharded, 100, 1.0, 0};
  CHECK(plan_compression(kCount, DataType::float32, asked_for, costs).mode ==
        CompressionMode::sharded);
}
