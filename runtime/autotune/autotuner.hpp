#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/deadline.hpp"
#include "runtime/autotune/optimizer.hpp"
#include "runtime/negotiation.hpp"

namespace scalecom {

/// What is tuned, and how long; the counts are those of the SCALECOM_AUTOTUNE settings.
struct AutotuneOptions {
  FusionSettings first;  ///< those that the job starts with, which are among the samples
  bool tunes_threshold = true;
  bool tunes_cycle_time = true;
  std::int64_t warmup_samples = 3;
  std::int64_t steps_per_sample = 10;
  std::int64_t max_samples = 20;
  double noise = 0.8;  ///< see autotune::believe()
  /// Steps after each change that do not count: what was under way, and what the ranks need to
  /// repeat their steps again. 1 or more.
  std::int64_t settling_steps = 1;
};

/// What one sample is for.
enum class AutotunePhase {
  warmup,  ///< thrown away
  search,
  check,  ///< the first settings and the best in turns
  done
};

const char* to_string(AutotunePhase phase) noexcept;

/// What a job did with one pair of settings.
struct AutotuneSample {
  AutotunePhase phase = AutotunePhase::warmup;
  FusionSettings settings;
  double bytes_per_s = 0;  ///< the median over its steps
};

/// Tries fusion settings while a job runs, and says which is best by bytes a second. Told of
/// tensors that are complete; a step ends when one of them is complete again. Rank 0 has one. The
/// settings are changed by its owner, who says when that has happened: no clock, no thread.
///
/// The best of many noisy samples looks better than it is. So it and the first settings are
/// measured again in turns at the end, and it stays only if it is faster in these as well.
class Autotuner {
 public:
  explicit Autotuner(const AutotuneOptions& options);

  /// A tensor of `bytes` has its result. A sample if this ended one: settings() may then be others.
  std::optional<AutotuneSample> complete(const std::string& name, std::int64_t bytes,
                                         TimePoint now);

  /// The job has the settings from now on. What is complete before this, after settings() has
  /// changed, does not count.
  void apply(const FusionSettings& settings, TimePoint now);

  /// To be tried now; once is_done(), to be kept.
  const FusionSettings& settings() const noexcept { return settings_; }
  bool is_done() const noexcept { return phase_ == AutotunePhase::done; }
  /// Requires is_done(): bytes a second with the settings that are kept over those with the first.
  double gain() const noexcept { return gain_; }

 private:
  /// Turns of each of the two in the check.
  static constexpr std::size_t kCheckTurns = 3;

  void begin_step(TimePoint now);
  void end_step(TimePoint now);
  AutotuneSample end_sample();
  void choose_next(double bytes_per_s);
  void start_check();
  void end_check();
  void change_to(const FusionSettings& settings);

  const AutotuneOptions options_;
  std::vector<FusionSettings> candidates_;
  autotune::Optimizer optimizer_;
  AutotunePhase phase_;
  FusionSettings settings_;
  FusionSettings best_;
  std::size_t candidate_ = 0;        ///< search: that of settings_
  std::int64_t samples_ = 0;         ///< of this phase
  std::vector<double> first_rates_;  ///< check: of the first settings' turns
  std::vector<double> best_rates_;
  double gain_ = 1.0;

  bool is_changing_ = false;  ///< settings_ are not applied yet
  std::int64_t settling_ = 0;
  std::unordered_set<std::string> names_;  ///< of this step
  std::int64_t bytes_ = 0;
  TimePoint step_began_{};
  std::vector<double> rates_;  ///< of this sample's steps
};

}  // namespace scalecom
