// SCALECOM_AUTOTUNE through whole sessions.
#include <algorithm>
#include <fstream>
#include <set>

#include "base/log.hpp"
#include "runtime/fusion_tuning.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"
#include "tests/support/temporary_folder.hpp"

using namespace scalecom;
using Catch::Contains;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr int kSize = 3;
constexpr int kTensors = 6;
constexpr std::size_t kCount = 5000;

/// A search of few and short samples: done in 150 steps at most.
Config tuned() {
  Config config;
  config.autotune = true;
  config.autotune_warmup_samples = 1;
  config.autotune_steps_per_sample = 2;
  config.autotune_bayes_opt_max_samples = 6;
  return config;
}

// Throws where a result is wrong.
void run_steps(Session& session, int rank, int first, int count) {
  AllReduceOptions options;
  options.op = ReduceOp::sum;
  std::vector<std::vector<float>> values(kTensors);
  for (int step = first; step < first + count; ++step) {
    std::vector<Ticket> tickets;
    for (int i = 0; i < kTensors; ++i) {
      values[static_cast<std::size_t>(i)].assign(kCount, static_cast<float>(step + i + rank));
      std::vector<float>& tensor = values[static_cast<std::size_t>(i)];
      tickets.push_back(
          session.all_reduce("t" + std::to_string(i), view_of(tensor), view_of(tensor), options));
    }
    for (int i = 0; i < kTensors; ++i) {
      const Status status = tickets[static_cast<std::size_t>(i)].wait();
      if (!status.is_ok()) throw std::runtime_error(status.message());
      const auto expected = static_cast<float>(kSize * (step + i) + kSize * (kSize - 1) / 2);
      const std::vector<float>& tensor = values[static_cast<std::size_t>(i)];
      if (std::any_of(tensor.begin(), tensor.end(), [&](float x) { return x != expected; })) {
        throw std::runtime_error("a wrong result in step " + std::to_string(step));
      }
    }
  }
}

std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string settings_of(const std::string& line) {
  const std::size_t phase = line.find(',', line.find(',') + 1) + 1;
  return line.substr(phase, line.rfind(',') - phase);
}

}  // namespace

TEST_CASE("all ranks end with the settings that rank 0 found, and keep them; results stay right") {
  const test::TemporaryFolder folder;
  Config config = tuned();
  config.autotune_log = folder.path() + "/autotune.csv";
  SECTION("with a steady state") { config.steady_steps = 1; }
  SECTION("without") { config.steady_steps = 0; }
  SECTION("of messages") {
    config.allreduce_algorithm = "ring";
    config.steady_steps = 1;
  }
  SessionWorld world(kSize, config);
  CHECK(world[0].config().sources.empty());
  test::run_ranks(kSize, [&](int rank) { run_steps(world[rank], rank, 0, 150); });

  const std::vector<std::string> lines = lines_of(config.autotune_log);
  REQUIRE(lines.size() >= 1 + 1 + 6 + 1);
  CHECK(lines[0] == "sample,phase,fusion_threshold_bytes,cycle_time_ms,bytes_per_s");
  CHECK_THAT(lines[1], Contains("1,warmup,134217728,adaptive,"));
  CHECK_THAT(lines[2], Contains("2,search,134217728,adaptive,"));
  CHECK_THAT(lines.back(), Contains(",kept,"));
  std::set<std::string> tried;
  for (std::size_t i = 1; i < lines.size(); ++i) tried.insert(settings_of(lines[i]));
  CHECK(tried.size() > 3);

  const Config kept = world[0].config();
  for (int rank = 0; rank < kSize; ++rank) {
    const Config here = world[rank].config();
    CHECK(here.fusion_threshold_bytes == kept.fusion_threshold_bytes);
    CHECK(here.cycle_time_ms == kept.cycle_time_ms);
    CHECK(here.sources.at("FUSION_THRESHOLD") == "autotune");
    CHECK(here.sources.at("CYCLE_TIME") == "autotune");
  }
  CHECK_THAT(settings_of(lines.back()),
             Catch::StartsWith(std::to_string(kept.fusion_threshold_bytes) + ","));

  test::run_ranks(kSize, [&](int rank) { run_steps(world[rank], rank, 150, 20); });
  CHECK(world[kSize - 1].config().fusion_threshold_bytes == kept.fusion_threshold_bytes);
  CHECK(lines_of(config.autotune_log) == lines);
}

TEST_CASE("the choice is said once, what is set is not tuned, and nothing without the setting") {
  Config config = tuned();
  config.steady_steps = 0;
  std::size_t choices = 1;
  bool is_tuned = true;
  SECTION("the cycle time is set") {
    config.cycle_time_ms = 2.0;
    config.sources["CYCLE_TIME"] = "SCALECOM_CYCLE_TIME";
  }
  SECTION("the threshold is set to its default") {
    config.sources["FUSION_THRESHOLD"] = "HOROVOD_FUSION_THRESHOLD";
  }
  SECTION("both are set") {
    config.cycle_time_ms = 2.0;
    config.sources["FUSION_THRESHOLD"] = "SCALECOM_FUSION_THRESHOLD";
    choices = 0;
    is_tuned = false;
  }
  SECTION("it is off") {
    config.autotune = false;
    choices = 0;
    is_tuned = false;
  }
  std::string text;
  {
    const test::CapturedStderr captured;
    configure_log(LogLevel::info, 0);
    SessionWorld world(kSize, config);
    test::run_ranks(kSize, [&](int rank) { run_steps(world[rank], rank, 0, 120); });
    const Config here = world[1].config();
    CHECK(here.sources.contains("FUSION_THRESHOLD") ==
          (is_tuned || config.sources.contains("FUSION_THRESHOLD")));
    if (config.cycle_time_ms == 2.0) {
      CHECK(here.cycle_time_ms == 2.0);
      if (const auto set = config.sources.find("CYCLE_TIME"); set != config.sources.end()) {
        CHECK(here.sources.at("CYCLE_TIME") == set->second);
      }
    }
    if (config.sources.contains("FUSION_THRESHOLD") || !is_tuned) {
      CHECK(here.fusion_threshold_bytes == config.fusion_threshold_bytes);
    }
    text = captured.text();
  }
  configure_log(LogLevel::warning, 0);
  std::size_t found = 0;
  for (std::size_t at = text.find("autotune: fusion threshold"); at != std::string::npos;
       at = text.find("autotune: fusion threshold", at + 1)) {
    ++found;
  }
  CHECK(found == choices);
  CHECK((text.find("nothing is to be tuned") != std::string::npos) ==
        (config.autotune && !is_tuned));
}

TEST_CASE("a log that cannot be written fails at the start, with its name") {
  Config config = tuned();
  config.autotune_log = "/nonexistent/autotune.csv";
  CHECK_THROWS_WITH(open_autotune_log(config),
                    Contains("SCALECOM_AUTOTUNE_LOG=/nonexistent/autotune.csv cannot be written"));
  config.sources["AUTOTUNE_LOG"] = "HOROVOD_AUTOTUNE_LOG";
  CHECK_THROWS_WITH(open_autotune_log(config), Contains("HOROVOD_AUTOTUNE_LOG=/nonexistent/"));
  config.autotune = false;
  CHECK_FALSE(open_autotune_log(config));
}
