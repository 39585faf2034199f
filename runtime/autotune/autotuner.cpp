#include "runtime/autotune/autotuner.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.hpp"

namespace scalecom {
namespace {

// Powers of two, the default of 128 MiB among them.
constexpr int kThresholdBitsMin = 16;
constexpr int kThresholdBitsMax = 28;

// Adaptive is placed by what it does: it waits for 0.1 to 1 ms.
constexpr std::array kCycleTimesMs{0.0, kAdaptiveCycleTime, 1.0, 2.5, 5.0, 10.0};

// A step with more tensors than this, or names that never come again, is given up.
constexpr std::size_t kNamesMax = 65'536;

// Requires one value or more.
double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::vector<std::int64_t> thresholds(const AutotuneOptions& options) {
  std::vector<std::int64_t> values;
  if (options.tunes_threshold) {
    for (int bits = kThresholdBitsMin; bits <= kThresholdBitsMax; ++bits) {
      values.push_back(std::int64_t{1} << bits);
    }
  } else {
    values.push_back(options.first.threshold_bytes);
  }
  return values;
}

std::vector<double> cycle_times(const AutotuneOptions& options) {
  if (!options.tunes_cycle_time) return {options.first.cycle_time_ms};
  return {kCycleTimesMs.begin(), kCycleTimesMs.end()};
}

std::vector<FusionSettings> candidates(const AutotuneOptions& options) {
  std::vector<FusionSettings> all;
  for (const std::int64_t threshold : thresholds(options)) {
    for (const double cycle_time : cycle_times(options)) all.push_back({threshold, cycle_time});
  }
  return all;
}

double place(std::size_t i, std::size_t count) {
  return count < 2 ? 0.5 : static_cast<double>(i) / static_cast<double>(count - 1);
}

// In the order of candidates(): the threshold's logarithm, and the cycle times one after the other.
std::vector<autotune::Point> points(const AutotuneOptions& options) {
  const std::size_t rows = thresholds(options).size();
  const std::size_t columns = cycle_times(options).size();
  std::vector<autotune::Point> all;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      all.push_back({place(row, rows), place(column, columns)});
    }
  }
  return all;
}

std::size_t first_place(const AutotuneOptions& options) {
  const std::vector<FusionSettings> all = candidates(options);
  const auto found = std::find(all.begin(), all.end(), options.first);
  SCALECOM_ASSERT(found != all.end(), "the first settings are no candidate");
  return static_cast<std::size_t>(found - all.begin());
}

}  // namespace

const char* to_string(AutotunePhase phase) noexcept {
  switch (phase) {
    case AutotunePhase::warmup: return "warmup";
    case AutotunePhase::search: return "search";
    case AutotunePhase::check: return "check";
    case AutotunePhase::done: return "done";
  }
  return "unknown phase";
}

Autotuner::Autotuner(const AutotuneOptions& options)
    : options_(options),
      candidates_(candidates(options)),
      optimizer_(points(options), first_place(options), options.noise),
      phase_(options.warmup_samples > 0 ? AutotunePhase::warmup : AutotunePhase::search),
      settings_(options.first),
      best_(options.first),
      candidate_(optimizer_.next()),
      settling_(options.settling_steps) {}

std::optional<AutotuneSample> Autotuner::complete(const std::string& name, std::int64_t bytes,
                                                  TimePoint now) {
  if (is_done() || is_changing_) return std::nullopt;
  std::optional<AutotuneSample> sample;
  if (names_.contains(name)) {
    end_step(now);
    if (static_cast<std::int64_t>(rates_.size()) == options_.steps_per_sample) {
      sample = end_sample();
    }
  }
  if (names_.size() == kNamesMax) begin_step(now);
  names_.insert(name);
  bytes_ += bytes;
  return sample;
}

void Autotuner::apply(const FusionSettings& settings, TimePoint now) {
  if (settings != settings_) return;
  is_changing_ = false;
  settling_ = options_.settling_steps;
  rates_.clear();
  begin_step(now);
}

void Autotuner::begin_step(TimePoint now) {
  names_.clear();
  bytes_ = 0;
  step_began_ = now;
}

void Autotuner::end_step(TimePoint now) {
  const double time_s = std::chrono::duration<double>(now - step_began_).count();
  if (settling_ > 0) {
    --settling_;
  } else if (time_s > 0 && bytes_ > 0) {
    rates_.push_back(static_cast<double>(bytes_) / time_s);
  }
  begin_step(now);
}

AutotuneSample Autotuner::end_sample() {
  const AutotuneSample sample{phase_, settings_, median(rates_)};
  rates_.clear();
  ++samples_;
  choose_next(sample.bytes_per_s);
  return sample;
}

void Autotuner::choose_next(double bytes_per_s) {
  if (phase_ == AutotunePhase::warmup) {
    if (samples_ < options_.warmup_samples) return;
    samples_ = 0;
    phase_ = AutotunePhase::search;
    return;
  }
  if (phase_ == AutotunePhase::search) {
    // Logarithms, so that what is slow by far does not hide what is a little better.
    optimizer_.add(candidate_, std::log(bytes_per_s));
    if (samples_ == options_.max_samples) return start_check();
    candidate_ = optimizer_.next();
    return change_to(candidates_[candidate_]);
  }
  const bool is_first = settings_ == options_.first;
  (is_first ? first_rates_ : best_rates_).push_back(bytes_per_s);
  if (best_rates_.size() == kCheckTurns) return end_check();
  change_to(is_first ? best_ : options_.first);
}

void Autotuner::start_check() {
  best_ = candidates_[optimizer_.best()];
  phase_ = best_ == options_.first ? AutotunePhase::done : AutotunePhase::check;
  change_to(options_.first);
}

void Autotuner::end_check() {
  const double gain = median(best_rates_) / median(first_rates_);
  const bool is_better = gain > 1.0;
  gain_ = is_better ? gain : 1.0;
  phase_ = AutotunePhase::done;
  change_to(is_better ? best_ : options_.first);
}

void Autotuner::change_to(const FusionSettings& settings) {
  is_changing_ = settings != settings_;
  settings_ = settings;
}

}  // namespace scalecom
