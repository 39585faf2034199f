#include <cmath>
#include <limits>
#include <random>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/repeat.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::SessionWorld;
using test::view_of;

namespace {

using Vectors = std::vector<std::vector<double>>;

std::vector<float> gradient(int rank, int step, std::size_t count) {
  std::mt19937 generator(static_cast<unsigned>(rank * 7919 + step));
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

// Steps 1 to 5 of CLT-k in float64 for all ranks; returns the averaged result.
std::vector<double> reference_step(Vectors& memory, int step, std::size_t count, std::size_t rate,
                                   double beta) {
  const auto size = memory.size();
  const auto leader = static_cast<std::size_t>(step) % size;
  std::vector<std::vector<float>> gradients;
  for (std::size_t r = 0; r < size; ++r)
    gradients.push_back(gradient(static_cast<int>(r), step, count));
  std::vector<double> result(count, 0.0);
  for (std::size_t begin = 0; begin < count; begin += rate) {
    std::size_t best = begin;
    const auto magnitude = [&](std::size_t i) {
      return std::abs(memory[leader][i] + static_cast<double>(gradients[leader][i]));
    };
    for (std::size_t i = begin; i < std::min(begin + rate, count); ++i) {
      if (magnitude(i) > magnitude(best)) best = i;
    }
    for (std::size_t r = 0; r < size; ++r) {
      for (std::size_t i = begin; i < std::min(begin + rate, count); ++i) {
        const double p = memory[r][i] + static_cast<double>(gradients[r][i]);
        if (i == best) result[i] += p / static_cast<double>(size);
        const double sent = i == best ? p : 0.0;
        memory[r][i] = (1 - beta) * memory[r][i] + beta * (p - sent);
      }
    }
  }
  return result;
}

AllReduceOptions scalecom_options(std::int64_t rate, double beta, std::int64_t warmup_steps = 0) {
  AllReduceOptions options;
  options.compression = {CompressionMode::cyclic, rate, beta, warmup_steps};
  return options;
}

double distance(const std::vector<float>& a, const std::vector<double>& b) {
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

}  // namespace

TEST_CASE("the runtime's ScaleCom steps follow the float64 reference: leaders, values, residuals") {
  const int size = GENERATE(1, 2, 3, 4);
  const double beta = GENERATE(1.0, 0.1);
  constexpr std::size_t kCount = 1009;
  constexpr std::int64_t kRate = 25;
  constexpr int kSteps = 9;
  SessionWorld world(size);
  std::vector<std::vector<std::vector<float>>> results(static_cast<std::size_t>(size));
  std::vector<std::vector<float>> residuals(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    for (int step = 0; step < kSteps; ++step) {
      auto values = gradient(rank, step, kCount);
      const Ticket ticket = world[rank].all_reduce("w", view_of(values), view_of(values),
                                                   scalecom_options(kRate, beta));
      if (!ticket.wait().is_ok()) throw std::runtime_error(ticket.wait().message());
      results[r].push_back(values);
    }
    residuals[r] = world[rank].residual("w").values;
  });
  Vectors memory(static_cast<std::size_t>(size), std::vector<double>(kCount, 0.0));
  for (int step = 0; step < kSteps; ++step) {
    const auto expected = reference_step(memory, step, kCount, kRate, beta);
    for (int rank = 0; rank < size; ++rank) {
      const auto& result = results[static_cast<std::size_t>(rank)][static_cast<std::size_t>(step)];
      CHECK(distance(result, expected) < 1e-5);
      CHECK(result == results[0][static_cast<std::size_t>(step)]);
    }
  }
  for (std::size_t r = 0; r < static_cast<std::size_t>(size); ++r) {
    CHECK(distance(residuals[r], memory[r]) < 1e-5);
  }
}

TEST_CASE("more threads give the same bits, and what they count") {
  constexpr std::size_t kCount = 5'000'011;
  constexpr std::size_t kPeriod = 65521;
  std::vector<std::vector<float>> results;
  std::vector<std::vector<float>> residuals;
  for (const int threads : {1, 3}) {
    Config config;
    config.compress_threads = threads;
    SessionWorld world(2, config);
    results.emplace_back();
    residuals.emplace_back();
    test::run_ranks(2, [&](int rank) {
      std::vector<float> values = gradient(rank, 1, kPeriod);
      values.resize(kCount);
      test::repeat(values, kPeriod);
      for (int step = 0; step < 2; ++step) {
        AllReduceOptions options = scalecom_options(100, 0.3);
        options.compression.mode = step == 0 ? CompressionMode::cyclic : CompressionMode::sharded;
        std::vector<float> result(kCount);
        world[rank]
            .all_reduce(std::to_string(step), view_of(values), view_of(result), options)
            .wait();
        if (rank == 0) results.back().insert(results.back().end(), result.begin(), result.end());
      }
      if (rank == 1) residuals.back() = world[1].residual("1").values;
    });
  }
  CHECK(results[0] == results[1]);
  CHECK(residuals[0] == residuals[1]);
}

TEST_CASE("SCALECOM_MODE decides for tensors that leave it open") {
  // One chunk a rank: sharded, each rank selects in its own.
  constexpr std::size_t kCount = 4;
  for (const std::string mode : {"cyclic", "sharded"}) {
    Config config;
    config.mode = mode;
    SessionWorld world(2, config);
    std::vector<std::vector<float>> results(2);
    test::run_ranks(2, [&](int rank) {
      // Rank 0 is largest in the first place of a chunk, rank 1 in the second.
      std::vector<float> values(kCount, 1.0f);
      values[static_cast<std::size_t>(rank)] = values[static_cast<std::size_t>(rank) + 2] = 9.0f;
      AllReduceOptions options = scalecom_options(2, 1.0);
      options.compression.mode = CompressionMode::by_setting;
      world[rank].all_reduce("w", view_of(values), view_of(values), options).wait();
      results[static_cast<std::size_t>(rank)] = values;
    });
    const std::vector<float> cyclic{5.0f, 0.0f, 5.0f, 0.0f};
    const std::vector<float> sharded{5.0f, 0.0f, 0.0f, 5.0f};
    CHECK(results[0] == (mode == "cyclic" ? cyclic : sharded));
    CHECK(results[1] == results[0]);
  }
}

TEST_CASE(
    "many compressed tensors of different rates in one step each follow their own reference") {
  const int size = 3;
  constexpr int kTensors = 12;
  SessionWorld world(size);
  const auto rate_of = [](int tensor) { return 5 + 100 * (tensor % 4); };
  const auto count_of_tensor = [](int tensor) {
    return static_cast<std::size_t>(64 + 501 * tensor);
  };
  std::vector<double> worst(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    std::vector<Vectors> memories;
    for (int i = 0; i < kTensors; ++i) {
      memories.push_back(
          Vectors(static_cast<std::size_t>(size), std::vector<double>(count_of_tensor(i))));
    }
    for (int step = 0; step < 4; ++step) {
      std::vector<std::vector<float>> tensors;
      for (int i = 0; i < kTensors; ++i)
        tensors.push_back(gradient(rank, step, count_of_tensor(i)));
      std::vector<Ticket> tickets;
      for (int i = 0; i < kTensors; ++i) {
        auto& tensor = tensors[static_cast<std::size_t>(i)];
        tickets.push_back(world[rank].all_reduce("t" + std::to_string(i), view_of(tensor),
                                                 view_of(tensor),
                                                 scalecom_options(rate_of(i), 0.3)));
      }
      for (const Ticket& ticket : tickets) ticket.wait();
      for (int i = 0; i < kTensors; ++i) {
        const auto expected =
            reference_step(memories[static_cast<std::size_t>(i)], step, count_of_tensor(i),
                           static_cast<std::size_t>(rate_of(i)), 0.3);
        worst[static_cast<std::size_t>(rank)] =
            std::max(worst[static_cast<std::size_t>(rank)],
                     distance(tensors[static_cast<std::size_t>(i)], expected));
      }
    }
  });
  for (const double distance_to_reference : worst) CHECK(distance_to_reference < 1e-5);
}

TEST_CASE("warm-up steps are dense, leave the residual zero and are counted") {
  SessionWorld world(2);
  std::vector<char> is_dense(2);
  std::vector<char> is_sparse(2);
  std::vector<Residual> during(2);
  test::run_ranks(2, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    std::vector<float> values(100, 1.0f);
    for (int step = 0; step < 2; ++step) {
      world[rank]
          .all_reduce("w", view_of(values), view_of(values), scalecom_options(10, 1.0, 2))
          .wait();
    }
    is_dense[r] = std::count(values.begin(), values.end(), 1.0f) == 100;
    during[r] = world[rank].residual("w");
    world[rank]
        .all_reduce("w", view_of(values), view_of(values), scalecom_options(10, 1.0, 2))
        .wait();
    is_sparse[r] = std::count(values.begin(), values.end(), 0.0f) == 90;
  });
  for (std::size_t r = 0; r < 2; ++r) {
    CHECK(is_dense[r]);
    CHECK(during[r].step == 2);
    CHECK(during[r].values == std::vector<float>(100, 0.0f));
    CHECK(is_sparse[r]);
  }
}

TEST_CASE("a session restored from another's residuals continues step for step") {
  const int size = 3;
  constexpr std::size_t kCount = 500;
  const auto run = [&](SessionWorld& world, int rank, int first, int last) {
    std::vector<float> values;
    for (int step = first; step < last; ++step) {
      values = gradient(rank, step, kCount);
      world[rank]
          .all_reduce("w", view_of(values), view_of(values), scalecom_options(20, 0.5))
          .wait();
    }
    return values;
  };
  std::vector<std::vector<float>> uninterrupted(3);
  std::vector<std::vector<float>> resumed(3);
  std::vector<std::vector<float>> resumed_again(3);
  std::vector<Residual> saved(3);
  SessionWorld whole(size);
  SessionWorld first(size);
  SessionWorld second(size);
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    uninterrupted[r] = run(whole, rank, 0, 8);
    run(first, rank, 0, 4);
    saved[r] = first[rank].residual("w");
    second[rank].restore_residuals({saved[r]});
    resumed[r] = run(second, rank, 4, 8);
    second[rank].restore_residuals({saved[r]});
    resumed_again[r] = run(second, rank, 4, 8);
  });
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(saved[r].step == 4);
    CHECK(saved[r].beta == 0.5);
    CHECK(resumed[r] == uninterrupted[r]);
    CHECK(resumed_again[r] == uninterrupted[r]);
  }
  Residual broken = saved[0];
  broken.values.pop_back();
  CHECK_THROWS_WITH(second[0].restore_residuals({broken}), Contains("w") && Contains("499"));
  Residual wrong = saved[0];
  wrong.beta = 1.5;
  CHECK_THROWS_WITH(second[0].restore_residuals({wrong}), Contains("beta 1.5"));
  Residual endless = saved[0];
  endless.values[3] = std::numeric_limits<float>::quiet_NaN();
  endless.values[4] = std::numeric_limits<float>::infinity();
  Residual good = saved[0];
  good.values.assign(kCount, 1.0f);
  CHECK_THROWS_WITH(second[0].restore_residuals({good, endless}),
                    Contains("tensor w") && Contains("2 values of 500") && Contains("NaN"));
  CHECK_THROWS_WITH(second[0].residual("nobody"), Contains("nobody"));
  CHECK(second[0].residual("w").values != good.values);
  CHECK(second[0].stats().residual_resets == 0);
  second[0].restore_residuals({{"w", {static_cast<std::int64_t>(kCount)}, 0, {}}});
  CHECK(second[0].residual("w").values == std::vector<float>(kCount, 0.0f));
  CHECK(second[0].stats().residual_resets == 1);
}

TEST_CASE("NaN on a rank that does not lead shows where dense all-reduce would show it") {
  const int size = 3;
  const int bad_rank = GENERATE(0, 1, 2);
  const float bad_value =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  SessionWorld world(size);
  std::vector<std::vector<float>> results(static_cast<std::size_t>(size));
  std::vector<std::vector<float>> residuals(static_cast<std::size_t>(size));
  std::vector<std::int64_t> counted(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    for (int step = 0; step < 2; ++step) {
      auto values = gradient(rank, step, 64);
      if (step == 1 && rank == bad_rank) values[37] = bad_value;
      world[rank]
          .all_reduce("w", view_of(values), view_of(values), scalecom_options(16, 0.1))
          .wait();
      results[r] = values;
    }
    residuals[r] = world[rank].residual("w").values;
    counted[r] = world[rank].stats().nonfinite_tensors;
  });
  for (std::size_t r = 0; r < static_cast<std::size_t>(size); ++r) {
    for (std::size_t i = 0; i < 64; ++i) {
      double expected = 0.0;
      for (int rank = 0; rank < size; ++rank)
        expected += static_cast<double>(gradient(rank, 1, 64)[i]) / size;
      if (i == 37) {
        CHECK_FALSE(std::isfinite(results[r][i]));
      } else {
        CHECK(results[r][i] == Approx(expected).margin(1e-6));
      }
      CHECK(std::isfinite(residuals[r][i]));
    }
    CHECK(counted[r] == 1);
  }
}

TEST_CASE("a changed shape resets the residual, and the reset is counted") {
  SessionWorld world(2);
  std::vector<SessionStats> stats(2);
  test::run_ranks(2, [&](int rank) {
    for (const std::size_t count : {50, 60}) {
      std::vector<float> values(count, 1.0f);
      world[rank]
          .all_reduce("w", view_of(values), view_of(values), scalecom_options(10, 1.0))
          .wait();
    }
    stats[static_cast<std::size_t>(rank)] = world[rank].stats();
  });
  for (const SessionStats& stat : stats) CHECK(stat.residual_resets == 1);
}
