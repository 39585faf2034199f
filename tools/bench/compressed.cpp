#include <cmath>
#include <random>

#include "tools/bench/bench.hpp"

namespace scalecom::bench {
namespace {

using Floats = std::vector<float>;

TensorView view_of(Floats& values) {
  return {values.data(), DataType::float32, {static_cast<std::int64_t>(values.size())}, {}};
}

Floats average_over_ranks(Session& session, const std::string& name, Floats values) {
  finish(session.all_reduce(name, view_of(values), view_of(values)));
  return values;
}

// Of a sum on the wire, relative.
double rounding_of(DataType dtype) {
  switch (dtype) {
    case DataType::float16: return 0x1p-11;
    case DataType::bfloat16: return 0x1p-8;
    default: return 0x1p-24;
  }
}

double norm(const Floats& values) {
  double squares = 0.0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

// Steps on one tensor, with the sums that the conservation law needs:
// sum_t result_t = average over ranks of (sum_t g_t - m_T / beta).
class CompressedBench {
 public:
  CompressedBench(Session& session, const Options& options, std::int64_t count)
      : session_(session),
        name_("bench." + std::to_string(count)),
        gradient_(static_cast<std::size_t>(count)),
        result_(gradient_.size()),
        gradients_(gradient_.size()),
        results_(gradient_.size()),
        beta_(options.beta),
        tolerance_(1e-4 + (session.topology().size - 1) * rounding_of(options.values)) {
    std::mt19937 generator(static_cast<unsigned>(17 + session.topology().rank));
    std::normal_distribution<float> normal;
    for (float& value : gradient_) value = normal(generator);
    reduction_.compression = {options.mode, options.rate, options.beta, 0, options.values};
  }

  Timing time(const Options& options, bool is_in_place) {
    const auto prepare = [&] {
      add_last_step();
      if (is_in_place) result_ = gradient_;
      finish(session_.barrier());  // Nobody's clock runs while others still prepare.
    };
    const Timing timing = time_calls(options, prepare, [&] {
      is_pending_ = true;
      Floats& input = is_in_place ? result_ : gradient_;
      finish(session_.all_reduce(name_, view_of(input), view_of(result_), reduction_));
    });
    add_last_step();
    return timing;
  }

  std::int64_t count_violations() {
    const Residual residual = session_.residual(name_);
    Floats kept(gradient_.size());
    Floats given(gradient_.size());
    for (std::size_t i = 0; i < kept.size(); ++i) {
      given[i] = static_cast<float>(std::abs(gradients_[i]));
      kept[i] = static_cast<float>(gradients_[i] - static_cast<double>(residual.values[i]) / beta_);
    }
    const Floats expected = average_over_ranks(session_, "bench.expected", kept);
    // What cancels in a sum is rounded all the same.
    const Floats sizes = average_over_ranks(session_, "bench.sizes", given);
    std::int64_t violations = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double scale = std::max(1.0, static_cast<double>(sizes[i]));
      const double error = std::abs(results_[i] - static_cast<double>(expected[i]));
      if (error > tolerance_ * scale) ++violations;
    }
    return violations;
  }

  // Of the last step's result against the dense average.
  double relative_error() {
    Floats dense = average_over_ranks(session_, "bench.dense", gradient_);
    const double size = norm(dense);
    for (std::size_t i = 0; i < dense.size(); ++i) dense[i] -= result_[i];
    return norm(dense) / size;
  }

 private:
  void add_last_step() {
    if (!is_pending_) return;
    is_pending_ = false;
    for (std::size_t i = 0; i < gradient_.size(); ++i) {
      gradients_[i] += static_cast<double>(gradient_[i]);
      results_[i] += static_cast<double>(result_[i]);
    }
  }

  Session& session_;
  const std::string name_;
  Floats gradient_;
  Floats result_;
  std::vector<double> gradients_;
  std::vector<double> results_;
  const double beta_;
  const double tolerance_;
  AllReduceOptions reduction_;
  bool is_pending_ = false;
};

}  // namespace

Row run_compressed(Session& session, const Options& options, std::int64_t bytes) {
  Row row;
  row.count = std::max<std::int64_t>(1, bytes / 4);
  row.bytes = row.count * 4;
  const int size = session.topology().size;
  row.bus_factor = 2.0 * (size - 1) / size;
  CompressedBench bench(session, options, row.count);
  const SessionStats before = session.stats();
  row.out_of_place = bench.time(options, false);
  row.in_place = bench.time(options, true);
  const SessionStats after = session.stats();
  const int calls = 2 * (options.warmup + options.iterations);
  const double sent = static_cast<double>(after.data_bytes_sent - before.data_bytes_sent) / calls;
  Floats dense(static_cast<std::size_t>(row.count), 1.0f);
  average_over_ranks(session, "bench.dense_bytes", dense);
  const auto dense_sent =
      static_cast<double>(session.stats().data_bytes_sent - after.data_bytes_sent);
  if (options.check) row.wrong_in_place = row.wrong = bench.count_violations();
  row.extra = {{"rate", options.rate},
               {"wire_bytes", sent},
               {"ratio", sent > 0 ? dense_sent / sent : 0.0},
               {"relative_error", bench.relative_error()}};
  return row;
}

}  // namespace scalecom::bench
