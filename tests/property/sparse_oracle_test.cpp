// The oracles of the algorithm (docs/algorithms.md), each as a property of random runs.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tests/property/scenario.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

void require_none(const std::string& difference) {
  if (!difference.empty()) RC_FAIL(difference);
}

/// This rank's sums over the steps: of prescaled gradients, and of what it sent, by coordinate.
struct Totals {
  Values given;
  Values sent;
};

Totals totals_of(const std::vector<RankStep>& steps, std::size_t t, const TensorSpec& spec) {
  Totals totals{Values(static_cast<std::size_t>(spec.count)),
                Values(static_cast<std::size_t>(spec.count))};
  for (const RankStep& step : steps) {
    const TensorStep& tensor = step.tensors[t];
    for (std::size_t i = 0; i < totals.given.size(); ++i) {
      totals.given[i] += spec.prescale * tensor.gradient[i];
    }
    for (std::size_t j = 0; j < tensor.selected.size(); ++j) {
      totals.sent[tensor.selected[j]] += static_cast<double>(tensor.sent[j]);
    }
  }
  return totals;
}

/// Textbook error feedback in float32 for one worker: sends the largest of each chunk of m + g and
/// remembers the rest.
std::vector<std::size_t> largest_of_chunks(const std::vector<float>& p, std::int64_t rate) {
  std::vector<std::size_t> selected;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (i % static_cast<std::size_t>(rate) == 0) {
      selected.push_back(i);
    } else if (std::abs(p[i]) > std::abs(p[selected.back()])) {
      selected.back() = i;
    }
  }
  return selected;
}

}  // namespace

TEST_CASE("every step equals CLT-k in float64: selection, results and residuals") {
  CHECK(rc::check("float64 reference", [] {
    const RunOptions options = draw_scenario();
    require_none(difference_to_reference(options, run_sparse(options)));
  }));
}

TEST_CASE("all ranks hold bit-identical results") {
  CHECK(rc::check("bit-identical", [] {
    const RunOptions options = draw_scenario();
    const Run run = run_sparse(options);
    for (std::size_t rank = 1; rank < run.size(); ++rank) {
      for (std::size_t step = 0; step < run[rank].size(); ++step) {
        for (std::size_t t = 0; t < options.tensors.size(); ++t) {
          RC_ASSERT(run[rank][step].tensors[t].result_bytes ==
                    run[0][step].tensors[t].result_bytes);
        }
      }
    }
  }));
}

TEST_CASE("a step moves the offsets, the selected values and one flag a tensor, and nothing else") {
  CHECK(rc::check("bytes", [] {
    const RunOptions options = draw_scenario();
    const Run run = run_sparse(options);
    std::size_t offsets = 0;
    const auto value_bytes = static_cast<std::size_t>(size_of(options.values));
    std::size_t reduced = 0;
    for (const TensorSpec& spec : options.tensors) {
      const auto chunks = static_cast<std::size_t>((spec.count + spec.rate - 1) / spec.rate);
      offsets += chunks * (spec.rate <= 256 ? 1 : 2);
      reduced += value_bytes * chunks;
    }
    for (const auto& steps : run) {
      for (const RankStep& step : steps) {
        RC_ASSERT(step.offset_bytes == offsets);
        RC_ASSERT(step.reduced_bytes ==
                  (std::vector<std::size_t>{reduced, options.tensors.size()}));
      }
    }
  }));
}

TEST_CASE("nothing is lost: what was sent is what was given less the residual over beta") {
  const double beta = GENERATE(1.0, 0.3, 0.1);
  CAPTURE(beta);
  CHECK(rc::check("conservation", [beta] {
    ScenarioLimits limits;
    limits.betas = {beta};
    limits.steps_max = 30;
    limits.tensors_max = 1;
    const RunOptions options = draw_scenario(limits);
    const Run run = run_sparse(options);
    const TensorSpec& spec = options.tensors[0];
    for (const auto& steps : run) {
      const Totals totals = totals_of(steps, 0, spec);
      const std::vector<float>& residual = steps.back().tensors[0].residual;
      for (std::size_t i = 0; i < residual.size(); ++i) {
        const double expected = totals.given[i] - static_cast<double>(residual[i]) / beta;
        const double error = std::abs(totals.sent[i] - expected);
        if (!(error <= 3e-6 * options.steps / beta)) {
          RC_FAIL(fmt::format("coordinate {}: sent {}, expected {}", i, totals.sent[i], expected));
        }
      }
    }
  }));
}

TEST_CASE("one rank alone does top-1 of each chunk with error feedback") {
  CHECK(rc::check("one rank", [] {
    ScenarioLimits limits;
    limits.size_max = 1;
    limits.betas = {1.0};
    limits.values = {DataType::float32};
    limits.dtypes = {DataType::float32};
    limits.prescales = {1.0};
    limits.tensors_max = 1;
    const RunOptions options = draw_scenario(limits);
    const Run run = run_sparse(options);
    std::vector<float> residual(static_cast<std::size_t>(options.tensors[0].count), 0.0f);
    for (const RankStep& step : run[0]) {
      const TensorStep& tensor = step.tensors[0];
      for (std::size_t i = 0; i < residual.size(); ++i) {
        residual[i] += static_cast<float>(tensor.gradient[i]);
      }
      Values expected(residual.size(), 0.0);
      for (const std::size_t i : largest_of_chunks(residual, options.tensors[0].rate)) {
        expected[i] = static_cast<double>(std::exchange(residual[i], 0.0f));
      }
      RC_ASSERT(tensor.result == expected);
      RC_ASSERT(tensor.residual == residual);
    }
  }));
}

TEST_CASE(
    "at beta 1 each rank does classical error feedback on the leaders' coordinates, exactly") {
  CHECK(rc::check("classical error feedback", [] {
    ScenarioLimits limits;
    limits.betas = {1.0};
    limits.values = {DataType::float32};
    limits.dtypes = {DataType::float32};
    limits.prescales = {1.0};
    limits.tensors_max = 1;
    const RunOptions options = draw_scenario(limits);
    const Run run = run_sparse(options);
    const auto count = static_cast<std::size_t>(options.tensors[0].count);
    std::vector<std::vector<float>> residuals(run.size(), std::vector<float>(count, 0.0f));
    for (int step = 0; step < options.steps; ++step) {
      const auto at = static_cast<std::size_t>(step);
      for (std::size_t rank = 0; rank < run.size(); ++rank) {
        for (std::size_t i = 0; i < count; ++i) {
          residuals[rank][i] += static_cast<float>(run[rank][at].tensors[0].gradient[i]);
        }
      }
      std::vector<std::vector<std::size_t>> choices;
      for (const auto& p : residuals) {
        choices.push_back(largest_of_chunks(p, options.tensors[0].rate));
      }
      std::vector<std::size_t> selected;
      for (std::size_t j = 0; j < choices[0].size(); ++j) {
        selected.push_back(choices[static_cast<std::size_t>(leader_of(options, step, 0, j))][j]);
      }
      for (std::size_t rank = 0; rank < run.size(); ++rank) {
        std::vector<float> sent;
        for (const std::size_t i : selected)
          sent.push_back(std::exchange(residuals[rank][i], 0.0f));
        RC_ASSERT(run[rank][at].tensors[0].selected == selected);
        RC_ASSERT(run[rank][at].tensors[0].sent == sent);
        RC_ASSERT(run[rank][at].tensors[0].residual == residuals[rank]);
      }
    }
  }));
}

TEST_CASE("the mean of the selected parts is the selected part of the mean") {
  CHECK(rc::check("commutativity", [] {
    ScenarioLimits limits;
    limits.steps_max = 1;
    limits.modes = {CompressionMode::cyclic};
    limits.values = {DataType::float32};
    limits.dtypes = {DataType::float32};
    limits.prescales = {1.0};
    RunOptions options = draw_scenario(limits);
    options.is_average = true;
    const Run together = run_sparse(options);
    // CLT-k with the leader's choice on the mean: the leader alone tells the coordinates.
    RunOptions alone = options;
    alone.size = 1;
    alone.first_leader = 0;
    alone.gradient = [&options](int, int step, std::size_t t) {
      return options.gradient(options.first_leader, step, t);
    };
    const Run leader = run_sparse(alone);
    for (std::size_t t = 0; t < options.tensors.size(); ++t) {
      const auto count = static_cast<std::size_t>(options.tensors[t].count);
      Values expected(count, 0.0);
      for (const std::size_t i : leader[0][0].tensors[t].selected) {
        for (const auto& rank : together) {
          expected[i] += rank[0].tensors[t].gradient[i] / static_cast<double>(options.size);
        }
      }
      for (std::size_t i = 0; i < count; ++i) {
        const double result = together[0][0].tensors[t].result[i];
        if (!(std::abs(result - expected[i]) <= 1e-6)) {
          RC_FAIL(fmt::format("tensor {}, coordinate {}: {} and {}", t, i, result, expected[i]));
        }
      }
    }
  }));
}

TEST_CASE("a coordinate with a constant gradient g that is served every T steps delivers T g") {
  const double beta = GENERATE(1.0, 0.3, 0.1);
  const int period = GENERATE(1, 3, 5);
  CAPTURE(beta, period);
  // All coordinates of one chunk have the same gradient, so they are served in turn.
  RunOptions options;
  options.size = 2;
  options.steps = period * 240;
  options.tensors = {{.count = period, .rate = period, .beta = beta}};
  options.gradient = [period](int, int, std::size_t) {
    return Values(static_cast<std::size_t>(period), 0.75);
  };
  const Run run = run_sparse(options);
  int served = 0;
  double worst = 0.0;
  std::vector<int> last(static_cast<std::size_t>(period), -1);
  for (int step = 0; step < options.steps; ++step) {
    const TensorStep& tensor = run[0][static_cast<std::size_t>(step)].tensors[0];
    const std::size_t i = tensor.selected[0];
    const int waited = step - std::exchange(last[i], step);
    if (step < options.steps / 2) continue;  // the residual fills up first: (1-beta)^120
    CHECK(waited == period);
    worst = std::max(worst, std::abs(tensor.result[i] - 0.75 * period));
    ++served;
  }
  CHECK(served == options.steps / 2);
  CHECK(worst < 1e-4 * period);
}

TEST_CASE("what a tensor sends does not depend on what travels with it") {
  CHECK(rc::check("batches", [] {
    ScenarioLimits limits;
    limits.steps_max = 4;
    const RunOptions together = draw_scenario(limits);
    const Run run = run_sparse(together);
    for (std::size_t t = 0; t < together.tensors.size(); ++t) {
      RunOptions alone = together;
      alone.tensors = {together.tensors[t]};
      alone.gradient = [&together, t](int rank, int step, std::size_t) {
        return together.gradient(rank, step, t);
      };
      const Run expected = run_sparse(alone);
      for (std::size_t rank = 0; rank < run.size(); ++rank) {
        for (std::size_t step = 0; step < run[rank].size(); ++step) {
          const TensorStep& one = expected[rank][step].tensors[0];
          RC_ASSERT(run[rank][step].tensors[t].selected == one.selected);
          RC_ASSERT(run[rank][step].tensors[t].sent == one.sent);
          RC_ASSERT(run[rank][step].tensors[t].residual == one.residual);
        }
      }
    }
  }));
}
