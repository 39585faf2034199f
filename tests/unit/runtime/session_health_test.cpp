// Health figures and guards through whole sessions.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr std::size_t kCount = 10'000;

std::vector<float> normal(unsigned seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.0f, scale);
  std::vector<float> values(kCount);
  for (float& value : values) value = distribution(generator);
  return values;
}

/// What all ranks have in common is drowned by noise that cancels between even and odd ranks.
std::vector<float> opposed(int rank, int step) {
  std::vector<float> values = normal(2 * static_cast<unsigned>(step), 0.01f);
  const std::vector<float> noise = normal(2 * static_cast<unsigned>(step) + 1);
  for (std::size_t i = 0; i < kCount; ++i) values[i] += rank % 2 == 0 ? noise[i] : -noise[i];
  return values;
}

AllReduceOptions compressed(CompressionMode mode, double beta, double guard) {
  AllReduceOptions options;
  options.op = ReduceOp::sum;
  options.compression = {mode, 100, beta, 0, DataType::float32, guard};
  return options;
}

Config every(std::int64_t steps) {
  Config config;
  config.health_steps = steps;
  return config;
}

void reduce(Session& session, std::vector<float>& values, const AllReduceOptions& options) {
  const Status status = session.all_reduce("w", view_of(values), view_of(values), options).wait();
  if (!status.is_ok()) throw std::runtime_error(status.message());
}

std::int64_t travelled(const std::vector<float>& result) {
  return std::count_if(result.begin(), result.end(), [](float value) { return value != 0.0f; });
}

}  // namespace

TEST_CASE("each rank has its own figures of the last sampled step, and all have the same means") {
  const int size = GENERATE(1, 2, 3);
  SessionWorld world(size, every(3));
  std::vector<std::vector<CompressionHealth>> early(static_cast<std::size_t>(size));
  std::vector<std::vector<CompressionHealth>> health(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    for (int step = 0; step < 7; ++step) {
      if (step == 2) early[r] = world[rank].compression_health();
      auto values = normal(static_cast<unsigned>(step * size + rank));
      reduce(world[rank], values, compressed(CompressionMode::sharded, 0.3, 0.0));
    }
    health[r] = world[rank].compression_health();
  });
  double errors = 0.0;
  for (std::size_t r = 0; r < health.size(); ++r) {
    CHECK(early[r].empty());
    REQUIRE(health[r].size() == 1);
    const CompressionHealth& mine = health[r][0];
    CHECK(mine.name == "w");
    CHECK(mine.step == 5);
    CHECK(mine.elements == 10'000);
    CHECK(mine.rate == 100);
    CHECK(mine.sampled_chunks == 12);
    CHECK(mine.byte_true_rate == Approx(8.0 * 10'000 / (2 * (4 * 100 + 1) + 100)));
    CHECK(mine.hamming_distance == health[0][0].hamming_distance);
    CHECK(mine.chunk_overlap == health[0][0].chunk_overlap);
    CHECK(mine.mean_relative_error == health[0][0].mean_relative_error);
    CHECK((mine.relative_error > 0.5 && mine.relative_error < 1.0));
    CHECK(mine.residual_to_gradient > 0.0);
    errors += mine.relative_error / size;
  }
  CHECK(health[0][0].mean_relative_error == Approx(errors));
  if (size == 1) CHECK(health[0][0].chunk_overlap == 1.0);
}

TEST_CASE("ranks whose gradients are opposed go dense by a guard, and nothing is lost on the way") {
  test::CapturedStderr captured;
  const int size = GENERATE(2, 4);
  const auto mode = GENERATE(CompressionMode::cyclic, CompressionMode::sharded);
  const double beta = GENERATE(1.0, 0.3);
  constexpr int kSteps = 40;
  SessionWorld world(size, every(1));
  std::vector<std::vector<std::int64_t>> counts(static_cast<std::size_t>(size));
  std::vector<std::vector<double>> owed(static_cast<std::size_t>(size));
  std::vector<double> received(kCount);
  std::vector<SessionStats> stats(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    owed[r].resize(kCount);
    for (int step = 0; step < kSteps; ++step) {
      std::vector<float> values = opposed(rank, step);
      for (std::size_t i = 0; i < kCount; ++i) owed[r][i] += static_cast<double>(values[i]);
      reduce(world[rank], values, compressed(mode, beta, 0.2));
      counts[r].push_back(travelled(values));
      for (std::size_t i = 0; i < kCount && rank == 0; ++i)
        received[i] += static_cast<double>(values[i]);
    }
    const std::vector<float> residual = world[rank].residual("w").values;
    for (std::size_t i = 0; i < kCount; ++i) owed[r][i] -= static_cast<double>(residual[i]) / beta;
    stats[r] = world[rank].stats();
  });
  CHECK(counts[0][0] == 100);
  CHECK(counts[0].back() > 9'900);  // A sum may be zero.
  double worst = 0.0;
  for (std::size_t i = 0; i < kCount; ++i) {
    double sum = 0.0;
    for (const auto& rank : owed) sum += rank[i];
    worst = std::max(worst, std::abs(sum - received[i]));
  }
  CHECK(worst < 3e-6 * kSteps * size / beta);
  for (std::size_t r = 0; r < counts.size(); ++r) {
    CHECK(counts[r] == counts[0]);
    CHECK(stats[r].guard_halvings == 6);
  }
}

TEST_CASE("ranks whose gradients are alike stay at their rate under the same guard") {
  const int size = GENERATE(1, 3);
  SessionWorld world(size, every(1));
  std::vector<std::int64_t> last(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    for (int step = 0; step < 20; ++step) {
      // One large element in each chunk, at a place that changes with the step.
      std::vector<float> values = normal(static_cast<unsigned>(step * size + rank), 0.1f);
      for (std::size_t i = static_cast<std::size_t>(step); i < kCount; i += 100) values[i] += 9.0f;
      reduce(world[rank], values, compressed(CompressionMode::sharded, 1.0, 0.2));
      last[static_cast<std::size_t>(rank)] = travelled(values);
    }
  });
  for (int rank = 0; rank < size; ++rank) {
    CHECK(last[static_cast<std::size_t>(rank)] == 100);
    CHECK(world[rank].stats().guard_halvings == 0);
    CHECK(world[rank].compression_health()[0].hamming_distance == 0.0);
  }
}

TEST_CASE("a sampled step with NaN keeps the figures before it") {
  SessionWorld world(2, every(1));
  std::vector<std::int64_t> steps(2);
  test::run_ranks(2, [&](int rank) {
    for (int step = 0; step < 3; ++step) {
      auto values = normal(static_cast<unsigned>(step));
      if (step == 2 && rank == 1) values[77] = std::numeric_limits<float>::quiet_NaN();
      reduce(world[rank], values, compressed(CompressionMode::sharded, 1.0, 0.2));
    }
    steps[static_cast<std::size_t>(rank)] = world[rank].compression_health()[0].step;
  });
  CHECK(steps == std::vector<std::int64_t>{1, 1});
}

TEST_CASE("a restored residual starts without what the guard has done") {
  test::CapturedStderr captured;
  SessionWorld world(2, every(1));
  std::vector<std::int64_t> before(2);
  std::vector<std::int64_t> after(2);
  test::run_ranks(2, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    const auto run = [&](int step) {
      auto values = opposed(rank, step);
      reduce(world[rank], values, compressed(CompressionMode::cyclic, 1.0, 0.2));
      return travelled(values);
    };
    for (int step = 0; step < 5; ++step) before[r] = run(step);
    world[rank].restore_residuals({world[rank].residual("w")});
    after[r] = run(5);
  });
  for (std::size_t r = 0; r < 2; ++r) {
    CHECK(before[r] > 100);
    CHECK(after[r] <= 100);
  }
}

TEST_CASE("a guard that nothing is measured for is refused, with the setting's name") {
  SessionWorld world(1, every(0));
  std::vector<float> values(kCount);
  CHECK_THROWS_WITH(reduce(world[0], values, compressed(CompressionMode::cyclic, 1.0, 0.5)),
                    Contains("tensor w") && Contains("SCALECOM_HEALTH_STEPS is 0"));
  const double wrong = GENERATE(-0.1, 1.5, std::numeric_limits<double>::quiet_NaN());
  CHECK_THROWS_WITH(reduce(world[0], values, compressed(CompressionMode::cyclic, 1.0, wrong)),
                    Contains("compression guard is") && Contains("0 (none) to 1"));
}
