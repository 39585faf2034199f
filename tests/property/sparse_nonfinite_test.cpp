// NaN and Inf: never hidden by selection, never kept in a residual.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/property/scenario.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

/// One rank's gradient of one tensor has a NaN or an infinity in one step.
struct Injury {
  int rank = 0;
  int step = 0;
  std::size_t tensor = 0;
  std::size_t place = 0;
  double value = 0.0;
};

Injury draw_injury(RunOptions& options) {
  Injury injury;
  injury.rank = *rc::gen::inRange(0, options.size).as("rank with NaN");
  injury.step = *rc::gen::inRange(0, options.steps).as("step with NaN");
  injury.tensor = *rc::gen::inRange<std::size_t>(0, options.tensors.size()).as("tensor with NaN");
  std::int64_t& count = options.tensors[injury.tensor].count;
  count = std::max<std::int64_t>(count, 1);
  injury.place = *rc::gen::inRange<std::size_t>(0, static_cast<std::size_t>(count)).as("place");
  const double infinity = std::numeric_limits<double>::infinity();
  injury.value = *rc::gen::element(std::nan(""), infinity, -infinity).as("value");
  return injury;
}

bool is_same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

TEST_CASE(
    "a tensor with NaN or Inf on any rank gives what a dense all-reduce gives, on all ranks") {
  CHECK(rc::check("as dense", [] {
    RunOptions options = draw_scenario();
    const Injury injury = draw_injury(options);
    const auto specs = options.tensors;
    const auto seed = *rc::gen::inRange(0u, 1u << 30).as("seed of the gradients");
    options.gradient = [injury, specs, seed](int rank, int step, std::size_t t) {
      Values values = normal_values(seed, rank, step, t, specs[t].count);
      if (rank == injury.rank && step == injury.step && t == injury.tensor) {
        values[injury.place] = injury.value;
      }
      return values;
    };
    const Run run = run_sparse(options);
    const Values dense = run_dense(options, injury.step)[injury.tensor];
    for (int rank = 0; rank < options.size; ++rank) {
      for (int step = 0; step < options.steps; ++step) {
        const RankStep& record =
            run[static_cast<std::size_t>(rank)][static_cast<std::size_t>(step)];
        for (std::size_t t = 0; t < specs.size(); ++t) {
          const bool is_injured = step == injury.step && t == injury.tensor;
          RC_ASSERT(record.tensors[t].went_dense == is_injured);
          RC_ASSERT(record.tensors[t].nonfinite_count == (is_injured && rank == injury.rank));
          const auto& residual = record.tensors[t].residual;
          RC_ASSERT(std::all_of(residual.begin(), residual.end(),
                                [](float m) { return std::isfinite(m); }));
        }
      }
      const TensorStep& injured =
          run[static_cast<std::size_t>(rank)][static_cast<std::size_t>(injury.step)]
              .tensors[injury.tensor];
      RC_ASSERT(!std::isfinite(injured.result[injury.place]));
      RC_ASSERT(injured.result.size() == dense.size());
      RC_ASSERT(std::equal(dense.begin(), dense.end(), injured.result.begin(), is_same));
    }
  }));
}

TEST_CASE("after a dense step the residuals are those of before, to a rounding") {
  CHECK(rc::check("residuals kept", [] {
    ScenarioLimits limits;
    limits.steps_max = 6;
    RunOptions options = draw_scenario(limits);
    const Injury injury = draw_injury(options);
    const auto specs = options.tensors;
    options.gradient = [injury, specs](int rank, int step, std::size_t t) {
      Values values = normal_values(99, rank, step, t, specs[t].count);
      if (rank == injury.rank && step == injury.step && t == injury.tensor) {
        values[injury.place] = injury.value;
      }
      return values;
    };
    const Run run = run_sparse(options);
    for (const auto& steps : run) {
      const auto at = static_cast<std::size_t>(injury.step);
      const std::vector<float>& after = steps[at].tensors[injury.tensor].residual;
      const std::vector<float> before = at > 0 ? steps[at - 1].tensors[injury.tensor].residual
                                               : std::vector<float>(after.size(), 0.0f);
      for (std::size_t i = 0; i < after.size(); ++i) {
        if (!(std::abs(after[i] - before[i]) <= 2e-6f)) {
          RC_FAIL(fmt::format("m[{}] was {} and is {}", i, before[i], after[i]));
        }
      }
    }
  }));
}

TEST_CASE("the other tensors of the batch do not notice") {
  CHECK(rc::check("others", [] {
    RunOptions options = draw_scenario();
    const Injury injury = draw_injury(options);
    const auto specs = options.tensors;
    const auto healthy = [specs](int rank, int step, std::size_t t) {
      return normal_values(7, rank, step, t, specs[t].count);
    };
    options.gradient = healthy;
    const Run expected = run_sparse(options);
    options.gradient = [=](int rank, int step, std::size_t t) {
      Values values = healthy(rank, step, t);
      if (rank == injury.rank && step == injury.step && t == injury.tensor) {
        values[injury.place] = injury.value;
      }
      return values;
    };
    const Run run = run_sparse(options);
    for (std::size_t rank = 0; rank < run.size(); ++rank) {
      for (std::size_t step = 0; step < run[rank].size(); ++step) {
        for (std::size_t t = 0; t < specs.size(); ++t) {
          if (t == injury.tensor) continue;
          RC_ASSERT(run[rank][step].tensors[t].result_bytes ==
                    expected[rank][step].tensors[t].result_bytes);
          RC_ASSERT(run[rank][step].tensors[t].residual ==
                    expected[rank][step].tensors[t].residual);
        }
      }
    }
  }));
}
