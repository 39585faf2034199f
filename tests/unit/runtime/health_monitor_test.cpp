#include "runtime/health_monitor.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "runtime/csv_file.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/file_limit.hpp"
#include "tests/support/temporary_folder.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

Config every(std::int64_t steps) {
  Config config;
  config.health_steps = steps;
  return config;
}

AgreedTensor agreed(std::int64_t step, std::int64_t rate, double guard = 0.5) {
  AgreedTensor tensor;
  tensor.name = "w";
  tensor.step = step;
  tensor.signature.shape = {10'000};
  tensor.signature.compression = {CompressionMode::cyclic, rate, 1.0, 0, DataType::float32, guard};
  return tensor;
}

TensorHealth missing(std::int64_t missed, std::int64_t chunks) {
  TensorHealth health;
  health.sampled_chunks = chunks;
  health.missed = missed;
  return health;
}

/// The chunk length at which `step` is executed, whose options say `rate`.
std::int64_t rate_at(const HealthMonitor& monitor, std::int64_t step, std::int64_t rate,
                     double guard = 0.5) {
  Agreement agreement;
  agreement.tensors = {agreed(step, rate, guard)};
  monitor.apply_guards(agreement);
  return agreement.tensors[0].signature.compression.rate;
}

void record(HealthMonitor& monitor, const AgreedTensor& tensor, const TensorHealth& health) {
  const AgreedTensor* const pointer = &tensor;
  monitor.record({&pointer, 1}, {&health, 1});
}

std::string contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("the last step of each period is sampled, and none without a period") {
  const HealthMonitor monitor(every(100), 0);
  CHECK_FALSE(monitor.is_sampled(0));
  CHECK_FALSE(monitor.is_sampled(98));
  CHECK(monitor.is_sampled(99));
  CHECK_FALSE(monitor.is_sampled(100));
  CHECK(monitor.is_sampled(199));
  CHECK(HealthMonitor(every(1), 0).is_sampled(0));
  CHECK_FALSE(HealthMonitor(every(0), 0).is_sampled(99));
}

TEST_CASE("a guard halves the chunk length two steps after the sample, down to 1") {
  test::CapturedStderr captured;
  HealthMonitor monitor(every(1), 0);
  std::vector<std::int64_t> lengths;
  for (std::int64_t step = 0; step < 20; ++step) {
    const std::int64_t rate = rate_at(monitor, step, 100);
    lengths.push_back(rate);
    record(monitor, agreed(step, rate), missing(64, 64));
  }
  CHECK(lengths == std::vector<std::int64_t>{100, 100, 50, 50, 25, 25, 12, 12, 6, 6,
                                             3,   3,   1,  1,  1,  1,  1,  1,  1, 1});
  CHECK(monitor.guard_halvings() == 6);
  CHECK(monitor.health()[0].halvings == 6);
  CHECK_THAT(captured.text(), Contains("tensor w") && Contains("in step 2,") &&
                                  Contains("guard of 0.5") &&
                                  Contains("from step 4 on one element of 25 travels in place of "
                                           "one of 50"));
}

TEST_CASE("a guard says what it does on rank 0 only, and does it on every rank") {
  test::CapturedStderr captured;
  HealthMonitor monitor(every(1), 3);
  record(monitor, agreed(7, 100), missing(40, 64));
  CHECK(rate_at(monitor, 8, 100) == 100);
  CHECK(rate_at(monitor, 9, 100) == 50);
  CHECK(captured.text() == "");
}

TEST_CASE("a guard leaves alone what is at its bound, what has none, and what is dense") {
  HealthMonitor monitor(every(1), 1);
  record(monitor, agreed(0, 100, 0.5), missing(32, 64));
  CHECK(rate_at(monitor, 2, 100) == 100);
  record(monitor, agreed(0, 100, 0.0), missing(64, 64));
  CHECK(rate_at(monitor, 2, 100) == 100);
  record(monitor, agreed(1, 1), missing(64, 64));
  CHECK(monitor.guard_halvings() == 0);
  record(monitor, agreed(1, 100, 0.5), missing(33, 64));
  CHECK(rate_at(monitor, 3, 100) == 50);
  CHECK(rate_at(monitor, 3, 100, 0.0) == 100);
  Agreement dense;
  dense.tensors = {agreed(3, 100)};
  dense.tensors[0].signature.compression.mode = CompressionMode::none;
  monitor.apply_guards(dense);
  CHECK(dense.tensors[0].signature.compression.rate == 100);
}

TEST_CASE("small samples are judged together, each length by its own") {
  HealthMonitor monitor(every(1), 1);
  for (std::int64_t step = 0; step < 10; ++step) record(monitor, agreed(step, 100), missing(3, 3));
  CHECK(monitor.guard_halvings() == 0);
  record(monitor, agreed(10, 100), missing(3, 3));
  CHECK(monitor.guard_halvings() == 1);
  record(monitor, agreed(11, 100), missing(64, 64));  // Of the former length.
  CHECK(monitor.guard_halvings() == 1);
  record(monitor, agreed(12, 50), missing(31, 31));
  CHECK(monitor.guard_halvings() == 1);
  record(monitor, agreed(13, 50), missing(1, 1));
  CHECK(monitor.guard_halvings() == 2);
}

TEST_CASE("a tensor that starts anew has the length of its options") {
  HealthMonitor monitor(every(1), 1);
  record(monitor, agreed(0, 100), missing(64, 64));
  REQUIRE(rate_at(monitor, 2, 100) == 50);
  monitor.forget("w");
  CHECK(rate_at(monitor, 2, 100) == 100);
  CHECK(monitor.health().empty());
}

TEST_CASE("the file has one header and a line for each sample, also of several sessions") {
  const test::TemporaryFolder folder;
  Config config = every(1);
  config.health_file = folder.path() + "/health.csv";
  AgreedTensor tensor = agreed(5, 100);
  tensor.name = "layer \"1\", weight";
  for (int session = 0; session < 2; ++session) {
    HealthMonitor monitor(config, 0);
    record(monitor, tensor, missing(16, 64));
    HealthMonitor other(config, 1);
    record(other, tensor, missing(16, 64));
  }
  const std::string line = "5,\"layer \"\"1\"\", weight\",10000,100,0,64,0,0,0,0,0.25,0,";
  const std::string text = contents(config.health_file);
  CHECK(text.find("step,name,elements,rate,") == 0);
  CHECK(text.find("step,name", 1) == std::string::npos);
  const std::size_t first = text.find(line);
  REQUIRE(first != std::string::npos);
  const std::size_t second = text.find(line, first + 1);
  REQUIRE(second != std::string::npos);
  CHECK(text.find(line, second + 1) == std::string::npos);
}

TEST_CASE("a file that cannot be written names the variable and the cause, at once") {
  const test::TemporaryFolder folder;
  const std::string pipe = folder.path() + "/pipe", read_pipe = folder.path() + "/read";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  REQUIRE(mkfifo(read_pipe.c_str(), 0600) == 0);
  const OpenFile reader(open(read_pipe.c_str(), O_RDONLY | O_NONBLOCK));
  Config config = every(1);
  for (const auto& [path, cause] :
       {std::pair{std::string("/nowhere/at/all.csv"), "No such file"},
        std::pair{folder.path(), "Is a directory"},
        std::pair{folder.path() + "/", "Is a directory"},
        std::pair{std::string("/dev/full"), "No space left"},
        std::pair{std::string("/proc/version"), "cannot be written"},
        std::pair{pipe, "No such device"}, std::pair{read_pipe, "Illegal seek"}}) {
    config.health_file = path;
    CHECK_THROWS_WITH(HealthMonitor(config, 0),
                      Contains("SCALECOM_HEALTH_FILE=" + path) && Contains(cause) &&
                          Contains("name a file in a folder that exists"));
    CHECK_NOTHROW(HealthMonitor(config, 1));
  }
  config.sources["HEALTH_FILE"] = "HOROVOD_HEALTH_FILE";
  CHECK_THROWS_WITH(HealthMonitor(config, 0), Contains("HOROVOD_HEALTH_FILE="));
}

TEST_CASE("a full disk ends the file with one warning") {
  const test::TemporaryFolder folder;
  const test::CapturedStderr captured;
  CsvFile file("SCALECOM_X", folder.path() + "/x.csv", "a\n");
  {
    const test::FileLimit limit(2000);  // The log's line has to fit.
    file.append(std::string(5000, 'x'));
  }
  file.append("b\n");
  CHECK_THAT(captured.text(), Contains("SCALECOM_X=") && Contains("File too large"));
  CHECK(contents(folder.path() + "/x.csv").find('b') == std::string::npos);
}

TEST_CASE("figures of an earlier step that come late are told, and are not the last") {
  HealthMonitor monitor(every(1), 0);
  record(monitor, agreed(7, 100), missing(1, 10));
  record(monitor, agreed(6, 100), missing(2, 10));
  CHECK(monitor.health().at(0).step == 7);
  record(monitor, agreed(8, 100), missing(3, 10));
  CHECK(monitor.health().at(0).step == 8);
}
