#include "runtime/fusion_tuning.hpp"

#include <fmt/format.h>

#include "base/log.hpp"
#include "runtime/settings.hpp"

namespace scalecom {
namespace {

constexpr const char* kHeader = "sample,phase,fusion_threshold_bytes,cycle_time_ms,bytes_per_s\n";

// Also by a program that fills in a Config.
template <class Value>
bool is_set(const Config& config, const char* name, Value Config::*member) {
  return config.sources.contains(name) || config.*member != Config().*member;
}

AutotuneOptions options_of(const Config& config) {
  AutotuneOptions options;
  options.first = {config.fusion_threshold_bytes, config.cycle_time_ms};
  options.warmup_samples = config.autotune_warmup_samples;
  options.steps_per_sample = config.autotune_steps_per_sample;
  options.max_samples = config.autotune_bayes_opt_max_samples;
  options.noise = config.autotune_gaussian_process_noise;
  // The step under way, those that are learnt, and one more.
  options.settling_steps = config.steady_steps > 0 ? config.steady_steps + 2 : 1;
  return options;
}

}  // namespace

std::optional<CsvFile> open_autotune_log(const Config& config) {
  if (!config.autotune || config.autotune_log.empty()) return std::nullopt;
  return std::optional<CsvFile>(std::in_place, variable_of(config, "AUTOTUNE_LOG"),
                                config.autotune_log, kHeader);
}

FusionTuning::FusionTuning(const Config& config, int rank, int size)
    : settings_{config.fusion_threshold_bytes, config.cycle_time_ms},
      tunes_threshold_(!is_set(config, "FUSION_THRESHOLD", &Config::fusion_threshold_bytes)),
      tunes_cycle_time_(!is_set(config, "CYCLE_TIME", &Config::cycle_time_ms)) {
  if (!config.autotune || rank != 0 || size == 1) return;
  if (!tunes_threshold_ && !tunes_cycle_time_) {
    log_warning(fmt::format(
        "autotune: nothing is to be tuned, since {} and {} are set; leave one of them out",
        variable_of(config, "FUSION_THRESHOLD"), variable_of(config, "CYCLE_TIME")));
    return;
  }
  AutotuneOptions options = options_of(config);
  options.tunes_threshold = tunes_threshold_;
  options.tunes_cycle_time = tunes_cycle_time_;
  tuner_.emplace(options);
  log_ = open_autotune_log(config);
}

std::optional<FusionSettings> FusionTuning::complete(std::span<PendingTensor* const> tensors) {
  if (!tuner_) return std::nullopt;
  const TimePoint now = Clock::now();
  std::string lines;
  for (const PendingTensor* tensor : tensors) {
    const std::int64_t bytes = tensor->input.count() * size_of(tensor->input.dtype);
    const std::optional<AutotuneSample> sample = tuner_->complete(tensor->name, bytes, now);
    if (!sample) continue;
    lines += fmt::format("{},{},{},{},{:.6g}\n", ++samples_, to_string(sample->phase),
                         sample->settings.threshold_bytes,
                         describe_cycle_time(sample->settings.cycle_time_ms), sample->bytes_per_s);
  }
  if (lines.empty()) return std::nullopt;
  const FusionSettings next = tuner_->settings();
  if (tuner_->is_done()) lines += end_tuning();
  if (log_) log_->append(lines);
  return next == settings_ ? std::nullopt : std::optional(next);
}

// The log's last line.
std::string FusionTuning::end_tuning() {
  const FusionSettings kept = tuner_->settings();
  const std::string cycle_time = describe_cycle_time(kept.cycle_time_ms);
  log_info(
      fmt::format("autotune: fusion threshold {} bytes, cycle time {}, {:.3f} times the "
                  "default's score",
                  kept.threshold_bytes, kept.cycle_time_ms < 0 ? cycle_time : cycle_time + " ms",
                  tuner_->gain()));
  tuner_.reset();
  is_changed_ = true;
  return fmt::format("{},kept,{},{},\n", samples_, kept.threshold_bytes, cycle_time);
}

void FusionTuning::apply(const FusionSettings& settings) {
  settings_ = settings;
  is_changed_ = true;
  if (tuner_) tuner_->apply(settings, Clock::now());
}

Config FusionTuning::describe(Config config) const {
  if (!is_changed_) return config;
  config.fusion_threshold_bytes = settings_.threshold_bytes;
  config.cycle_time_ms = settings_.cycle_time_ms;
  if (tunes_threshold_) config.sources["FUSION_THRESHOLD"] = "autotune";
  if (tunes_cycle_time_) config.sources["CYCLE_TIME"] = "autotune";
  return config;
}

}  // namespace scalecom
