#include "runtime/autotune/autotuner.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

constexpr std::int64_t kTensors = 5;
constexpr std::int64_t kBytes = 1000;
constexpr FusionSettings kDefaults{128LL << 20, kAdaptiveCycleTime};

using StepTime = std::function<double(const FusionSettings&, int step)>;

/// A job of equal steps, each of which takes as long as its settings say, on a clock of its own.
struct Job {
  Autotuner tuner;
  StepTime time_s;
  FusionSettings applied;
  std::vector<AutotuneSample> samples = {};
  TimePoint now{std::chrono::seconds(100)};
  int steps = 0;

  Job(const AutotuneOptions& options, StepTime time)
      : tuner(options), time_s(std::move(time)), applied(options.first) {}

  void run_step() {
    const auto step = std::chrono::duration<double>(time_s(applied, steps++));
    for (int i = 0; i < kTensors; ++i) {
      now += std::chrono::duration_cast<Clock::duration>(step / kTensors);
      if (auto sample = tuner.complete("t" + std::to_string(i), kBytes, now)) {
        samples.push_back(*sample);
      }
    }
    if (tuner.settings() == applied) return;
    applied = tuner.settings();
    tuner.apply(applied, now);
  }
  void run() {
    while (!tuner.is_done() && steps < 10'000) run_step();
    REQUIRE(tuner.is_done());
  }
  std::int64_t count(AutotunePhase phase) const {
    return std::count_if(samples.begin(), samples.end(),
                         [phase](const auto& sample) { return sample.phase == phase; });
  }
};

AutotuneOptions options() {
  AutotuneOptions result;
  result.first = kDefaults;
  return result;
}

// 1 s and less the nearer the threshold is to 1 MiB; cycle times cost what they are.
double time_of(const FusionSettings& settings) {
  const double bits = std::log2(static_cast<double>(settings.threshold_bytes)) - 20;
  return 0.5 + 0.01 * bits * bits + 0.01 * std::max(settings.cycle_time_ms, 0.0);
}

}  // namespace

TEST_CASE("the best settings are found, and are what the default is not") {
  Job job(options(), [](const FusionSettings& settings, int) { return time_of(settings); });
  job.run();
  CHECK(job.count(AutotunePhase::warmup) == 3);
  CHECK(job.count(AutotunePhase::search) == 20);
  CHECK(job.count(AutotunePhase::check) == 6);
  CHECK(job.samples[3].settings == kDefaults);
  CHECK(time_of(job.tuner.settings()) < 0.53);
  CHECK(job.tuner.gain() == Approx(time_of(kDefaults) / time_of(job.tuner.settings())));
  // A sample's rate is bytes a second.
  CHECK(job.samples[3].bytes_per_s == Approx(kTensors * kBytes / time_of(kDefaults)));

  const FusionSettings kept = job.tuner.settings();
  for (int step = 0; step < 100; ++step) job.run_step();
  CHECK(job.tuner.settings() == kept);
  CHECK(job.samples.size() == 29);
}

TEST_CASE("a few slow steps do not decide") {
  Job job(options(), [](const FusionSettings& settings, int step) {
    return time_of(settings) * (step % 5 == 0 ? 100 : 1);
  });
  job.run();
  CHECK(time_of(job.tuner.settings()) < 0.53);
  CHECK(job.samples[3].bytes_per_s == Approx(kTensors * kBytes / time_of(kDefaults)));
}

TEST_CASE("where the default is the best it stays, and gains nothing") {
  Job job(options(),
          [](const FusionSettings& settings, int) { return settings == kDefaults ? 1.0 : 2.0; });
  job.run();
  CHECK(job.tuner.settings() == kDefaults);
  CHECK(job.applied == kDefaults);
  CHECK(job.tuner.gain() == 1.0);
}

TEST_CASE("what was only lucky in the search is found out in the check") {
  // All take the same, but the search met the others at better times.
  int slow_steps = 80;
  Job job(options(),
          [&](const FusionSettings&, int step) { return step < slow_steps ? 2.0 : 1.0; });
  job.run();
  CHECK(job.count(AutotunePhase::check) == 6);
  CHECK(job.tuner.settings() == kDefaults);
  CHECK(job.tuner.gain() == 1.0);
}

TEST_CASE("what the user has set stays") {
  AutotuneOptions fixed = options();
  SECTION("the threshold") {
    fixed.tunes_threshold = false;
    fixed.first.threshold_bytes = 12'345;
  }
  SECTION("the cycle time") {
    fixed.tunes_cycle_time = false;
    fixed.first.cycle_time_ms = 3.5;
  }
  Job job(fixed, [](const FusionSettings& settings, int) { return time_of(settings); });
  job.run();
  bool has_changed = false;
  for (const AutotuneSample& sample : job.samples) {
    if (!fixed.tunes_threshold) CHECK(sample.settings.threshold_bytes == 12'345);
    if (!fixed.tunes_cycle_time) CHECK(sample.settings.cycle_time_ms == 3.5);
    has_changed = has_changed || sample.settings != fixed.first;
  }
  CHECK(has_changed);
}

TEST_CASE("steps count from the change on, once it has settled") {
  AutotuneOptions slow = options();
  slow.warmup_samples = 0;
  slow.steps_per_sample = 2;
  slow.settling_steps = 3;
  Autotuner tuner(slow);
  TimePoint now{std::chrono::seconds(1)};
  const auto complete = [&](const char* name) {
    now += std::chrono::seconds(1);
    return tuner.complete(name, 10, now);
  };
  for (int step = 0; step < 5; ++step) {
    CHECK_FALSE(complete("a"));
    CHECK_FALSE(complete("b"));
  }
  // The first step ends with the second one's first tensor: three settle, two are measured.
  const auto sample = complete("a");
  REQUIRE(sample);
  CHECK(sample->bytes_per_s == Approx(10.0));
  REQUIRE(tuner.settings() != kDefaults);
  for (int step = 0; step < 20; ++step) CHECK_FALSE(complete("a"));
  tuner.apply(kDefaults, now);  // Another one's.
  for (int step = 0; step < 20; ++step) CHECK_FALSE(complete("a"));
  tuner.apply(tuner.settings(), now);
  int steps = 0;
  while (!complete("a") && steps < 100) ++steps;
  CHECK(steps == 5);
}

TEST_CASE("names that never come again, and steps of no bytes, give no sample and take no memory") {
  Autotuner tuner(options());
  TimePoint now{std::chrono::seconds(1)};
  bool has_sample = false;
  for (int i = 0; i < 200'000; ++i) {
    now += std::chrono::microseconds(1);
    has_sample = has_sample || tuner.complete(std::to_string(i), 10, now);
  }
  for (int i = 0; i < 1000; ++i) {
    now += std::chrono::microseconds(1);
    has_sample = has_sample || tuner.complete("barrier", 0, now);
  }
  CHECK_FALSE(has_sample);
}
