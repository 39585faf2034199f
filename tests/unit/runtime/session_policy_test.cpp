// A change of policy in the middle of training: what ranks owe is delivered all the same.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <span>

#include "kernels/select.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr std::size_t kCount = 1500;
constexpr int kSize = 3;

AllReduceOptions options_of(const Compression& compression, ReduceOp op = ReduceOp::average) {
  AllReduceOptions options;
  options.op = op;
  options.compression = compression;
  return options;
}

using Policy = std::function<Compression(int step)>;

/// What ranks gave and got of one tensor, over all steps.
struct Account {
  std::vector<double> given = std::vector<double>(kCount);  ///< averaged over the ranks
  std::vector<double> got = std::vector<double>(kCount);
  std::vector<double> owed = std::vector<double>(kCount);  ///< values / beta, averaged
  std::vector<std::size_t> selected;                       ///< other than zero, by step
  std::vector<float> last;

  /// Greatest |given - got - owed|.
  double missing() const {
    double worst = 0.0;
    for (std::size_t i = 0; i < kCount; ++i) {
      worst = std::max(worst, std::abs(given[i] - got[i] - owed[i]));
    }
    return worst;
  }
};

std::vector<float> gradient(int rank, int step) {
  std::seed_seq seed{rank, step};
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(kCount);
  for (float& value : values) value = normal(generator);
  return values;
}

/// Trains one tensor; `last_beta` is the discount that the residuals end with.
Account train(SessionWorld& world, int steps, const Policy& policy, double last_beta) {
  std::vector<Account> accounts(kSize);
  test::run_ranks(kSize, [&](int rank) {
    Account& account = accounts[static_cast<std::size_t>(rank)];
    for (int step = 0; step < steps; ++step) {
      std::vector<float> values = gradient(rank, step);
      for (std::size_t i = 0; i < kCount; ++i) account.given[i] += static_cast<double>(values[i]);
      const Status status =
          world[rank]
              .all_reduce("w", view_of(values), view_of(values), options_of(policy(step)))
              .wait();
      if (!status.is_ok()) throw std::runtime_error(status.message());
      std::size_t selected = 0;
      for (std::size_t i = 0; i < kCount; ++i) {
        account.got[i] += static_cast<double>(values[i]);
        if (values[i] != 0.0f) ++selected;
      }
      account.selected.push_back(selected);
      account.last = values;
    }
    const std::vector<float> residual = world[rank].residual("w").values;
    for (std::size_t i = 0; i < kCount; ++i) {
      account.owed[i] = static_cast<double>(residual[i]) / last_beta;
    }
  });
  Account all = accounts[0];
  for (std::size_t r = 1; r < kSize; ++r) {
    CHECK(accounts[r].last == accounts[0].last);
    for (std::size_t i = 0; i < kCount; ++i) {
      all.given[i] += accounts[r].given[i];
      all.owed[i] += accounts[r].owed[i];
    }
  }
  for (std::size_t i = 0; i < kCount; ++i) {
    all.given[i] /= kSize;
    all.owed[i] /= kSize;
  }
  return all;
}

/// A tensor "w" of float16 on one rank: each step has kCount equal elements.
class Halves {
 public:
  explicit Halves(Session& session) : session_(session), bits_(kCount), total_(kCount) {}

  /// What the step delivers, widened; `special` takes the place of element 7.
  std::vector<float> reduce(float value, const Compression& compression,
                            std::optional<float> special = {}) {
    std::vector<float> values(kCount, value);
    if (special) values[7] = *special;
    const auto bytes = std::as_writable_bytes(std::span(bits_)).data();
    const std::vector<std::uint16_t> offsets(kCount);
    kernels::fill_selected(bytes, DataType::float16, kCount, 1, offsets.data(), values.data());
    const TensorView view{bits_.data(), DataType::float16, {kCount}, {}};
    const Status status = session_.all_reduce("w", view, view, options_of(compression)).wait();
    if (!status.is_ok()) throw std::runtime_error(status.message());
    kernels::widen(values.data(), bytes, DataType::float16, kCount);
    for (std::size_t i = 0; i < kCount; ++i) total_[i] += static_cast<double>(values[i]);
    return values;
  }

  /// Of all steps.
  const std::vector<double>& total() const { return total_; }

 private:
  Session& session_;
  std::vector<std::uint16_t> bits_;
  std::vector<double> total_;
};

const Compression kHundredth{CompressionMode::sharded, 100, 0.5, 0, DataType::float16};

// Sums of at most 30 values of size 1, and residuals / beta of size 30, in float32.
constexpr double kRounding = 1e-3;

}  // namespace

TEST_CASE("a ramp sends fewer values from step to step and loses nothing") {
  const auto mode = GENERATE(CompressionMode::cyclic, CompressionMode::sharded);
  const double beta = GENERATE(1.0, 0.1);
  SessionWorld world(kSize);
  const Account account = train(
      world, 24, [&](int) { return Compression{mode, 100, beta, 2, DataType::float32, 0.0, 16}; },
      beta);
  CHECK(account.missing() < kRounding);
  CHECK(account.selected[1] == kCount);  // warm-up
  for (const auto& [step, rate] :
       {std::pair{2, 6}, {5, 6}, {6, 12}, {10, 25}, {17, 50}, {18, 100}}) {
    const auto selected = static_cast<std::size_t>((static_cast<int>(kCount) + rate - 1) / rate);
    CHECK(account.selected[static_cast<std::size_t>(step)] == selected);
  }
}

TEST_CASE("another rate, mode, dtype of values, warm-up or discount in the middle loses nothing") {
  SessionWorld world(kSize);
  const std::vector<Compression> policies = {
      {CompressionMode::cyclic, 10, 1.0, 0},
      {CompressionMode::sharded, 300, 1.0, 0},
      {CompressionMode::sharded, 7, 0.3, 0, DataType::float16},
      {CompressionMode::sharded, 7, 0.1, 100},  // Warm-up again.
      {CompressionMode::cyclic, 50, 0.1, 0, DataType::bfloat16},
      {CompressionMode::cyclic, 50, 1.0, 0},
      {CompressionMode::sharded, 50, 0.5, 0},
  };
  const Account account = train(
      world, 28, [&](int step) { return policies[static_cast<std::size_t>(step) / 4]; }, 0.5);
  // The ranks' sums of 16-bit values are rounded on the wire, which is in no residual.
  CHECK(account.missing() < 0.2);
  const std::vector<Compression> wide(policies.begin(), policies.begin() + 2);
  SessionWorld other(kSize);
  const Account exact = train(
      other, 8, [&](int step) { return wide[static_cast<std::size_t>(step) / 4]; }, 1.0);
  CHECK(exact.missing() < kRounding);
}

TEST_CASE("a discount that changes leaves what is owed as it is") {
  SessionWorld world(kSize);
  const std::vector<double> betas = {1.0, 0.1, 0.5, 0.3};
  const Account account = train(
      world, 16,
      [&](int step) {
        return Compression{CompressionMode::sharded, 20, betas[static_cast<std::size_t>(step) / 4],
                           0};
      },
      0.3);
  CHECK(account.missing() < kRounding);
}

TEST_CASE("a tensor that is not compressed any more delivers its residual once") {
  const auto algorithm = GENERATE(std::string("auto"), std::string("ring"));
  Config config;
  config.allreduce_algorithm = algorithm;
  SessionWorld world(kSize, config);
  const Policy policy = [](int step) {
    return step == 12 || step == 13 || step > 15
               ? Compression{}
               : Compression{CompressionMode::sharded, 100, 0.1, 0};
  };
  const Account account = train(world, 20, policy, 0.1);
  CHECK(account.missing() < kRounding);
  CHECK(*std::max_element(account.owed.begin(), account.owed.end()) == 0.0);
  CHECK(account.selected[19] == kCount);
}

TEST_CASE("other dtypes, shapes and ops of the name leave the residual alone") {
  SessionWorld world(kSize);
  test::run_ranks(kSize, [&](int rank) {
    std::vector<float> values = gradient(rank, 0);
    Session& session = world[rank];
    session
        .all_reduce("w", view_of(values), view_of(values),
                    options_of({CompressionMode::sharded, 100, 1.0, 0}))
        .wait();
    const std::vector<float> before = session.residual("w").values;
    std::vector<float> largest = gradient(rank, 1);
    session.all_reduce("w", view_of(largest), view_of(largest), options_of({}, ReduceOp::max))
        .wait();
    std::vector<float> shorter(10, 1.0f);
    session.all_reduce("w", view_of(shorter), view_of(shorter), options_of({})).wait();
    session.broadcast("w", view_of(shorter), 0).wait();
    if (shorter != std::vector<float>(10, 1.0f)) throw std::runtime_error("a residual was sent");
    if (session.residual("w").values != before) throw std::runtime_error("it is not as before");
  });
}

TEST_CASE("a delivery that meets NaN is made again by the next step") {
  SessionWorld world(kSize);
  std::vector<std::vector<float>> results(kSize);
  test::run_ranks(kSize, [&](int rank) {
    Session& session = world[rank];
    std::vector<float> values(kCount, 1.0f);
    session
        .all_reduce("w", view_of(values), view_of(values),
                    options_of({CompressionMode::sharded, 100, 1.0, 0}))
        .wait();
    std::vector<float> bad(kCount, 0.0f);
    if (rank == 1) bad[7] = std::numeric_limits<float>::quiet_NaN();
    session.all_reduce("w", view_of(bad), view_of(bad), options_of({})).wait();
    if (!std::isnan(bad[7])) throw std::runtime_error("NaN is hidden");
    std::vector<float> nothing(kCount, 0.0f);
    session.all_reduce("w", view_of(nothing), view_of(nothing), options_of({})).wait();
    for (std::size_t i = 0; i < kCount; ++i) nothing[i] += values[i];
    results[static_cast<std::size_t>(rank)] = nothing;
  });
  for (const std::vector<float>& result : results) {
    CHECK(result == std::vector<float>(kCount, 1.0f));
  }
}

TEST_CASE("a restored residual goes on with another discount, dense or not, and owes the same") {
  const Compression next =
      GENERATE(Compression{CompressionMode::sharded, 1, 1.0, 0}, Compression{});
  SessionWorld world(kSize);
  std::vector<float> results(kSize);
  test::run_ranks(kSize, [&](int rank) {
    Residual residual{
        "w", {static_cast<std::int64_t>(kCount)}, 3, std::vector<float>(kCount, 3.0f)};
    residual.beta = 0.5;
    world[rank].restore_residuals({residual});
    std::vector<float> values(kCount, 1.0f);
    world[rank].all_reduce("w", view_of(values), view_of(values), options_of(next)).wait();
    results[static_cast<std::size_t>(rank)] = values[17];
  });
  for (const float result : results) CHECK(result == 1.0f + 3.0f / 0.5f);
}

TEST_CASE(
    "a delivery of 16 bits stays below what they can sum, and the next steps deliver the rest") {
  SessionWorld world(kSize);
  std::vector<std::vector<double>> totals(kSize);
  std::vector<float> largest(kSize);
  test::run_ranks(kSize, [&](int rank) {
    const auto place = static_cast<std::size_t>(rank);
    Halves halves(world[rank]);
    for (int step = 0; step < 3; ++step) halves.reduce(60'000.0f, kHundredth);
    for (int step = 0; step < 20; ++step) {
      const std::vector<float> result = halves.reduce(0.0f, {});
      largest[place] = std::max(largest[place], *std::ranges::max_element(result));
    }
    totals[place] = halves.total();
    const std::vector<float> rest = world[rank].residual("w").values;
    if (rest != std::vector<float>(kCount)) throw std::runtime_error("something is left");
  });
  for (std::size_t rank = 0; rank < kSize; ++rank) {
    CHECK(largest[rank] < 65'504.0f / kSize + 32.0f);
    // Sums of 16 bits on the wire are rounded.
    for (const double total : totals[rank]) REQUIRE(total == Approx(180'000.0).epsilon(1e-3));
  }
}

TEST_CASE("what rounding takes from a delivery of 16 bits is delivered later") {
  SessionWorld world(kSize);
  constexpr float kSmall = 0x1p-12f;  // 1 + kSmall is 1 in float16.
  std::vector<std::vector<double>> totals(kSize);
  test::run_ranks(kSize, [&](int rank) {
    Halves halves(world[rank]);
    halves.reduce(kSmall, kHundredth);
    for (const float value : {1.0f, 0.0f}) halves.reduce(value, {});
    totals[static_cast<std::size_t>(rank)] = halves.total();
  });
  for (const auto& total : totals) {
    CHECK(total == std::vector<double>(kCount, 1.0 + static_cast<double>(kSmall)));
  }
}

TEST_CASE("Inf shows in a delivery of 16 bits, which the next step makes again") {
  SessionWorld world(kSize);
  std::vector<std::vector<float>> first(kSize);
  std::vector<std::vector<float>> second(kSize);
  test::run_ranks(kSize, [&](int rank) {
    const auto place = static_cast<std::size_t>(rank);
    Halves halves(world[rank]);
    halves.reduce(2.0f, kHundredth);
    const auto bad =
        rank == 1 ? std::optional(std::numeric_limits<float>::infinity()) : std::nullopt;
    first[place] = halves.reduce(0.0f, {}, bad);
    second[place] = halves.reduce(0.0f, {});
  });
  for (std::size_t rank = 0; rank < kSize; ++rank) {
    CHECK_FALSE(std::isfinite(first[rank][7]));
    // All but the selected ones, which the compressed step has sent.
    CHECK(std::ranges::count(second[rank], 2.0f) == kCount - (kCount + 99) / 100);
    first[rank][7] = second[rank][7];
    CHECK(second[rank] == first[rank]);
  }
}

TEST_CASE(
    "auto sends dense what does not pay, with what a restored residual owes, and the rest not") {
  Config config;
  config.mode = "auto";
  SessionWorld world(kSize, config);
  std::vector<std::vector<float>> results(kSize);
  test::run_ranks(kSize, [&](int rank) {
    Session& session = world[rank];
    // At rate 1 all values travel, and offsets besides.
    Compression compression{CompressionMode::by_setting, 1, 0.1, 0};
    std::vector<float> owed(kCount, 0.2f);
    session.restore_residuals({{"w", {static_cast<std::int64_t>(kCount)}, 3, owed}});
    for (int step = 0; step < 2; ++step) {
      std::vector<float> values(kCount, 1.0f);
      session.all_reduce("w", view_of(values), view_of(values), options_of(compression)).wait();
      results[static_cast<std::size_t>(rank)].push_back(values[17]);
    }
    compression.mode = CompressionMode::automatic;
    compression.rate = 100;
    std::vector<float> large(1 << 20, 1.0f);
    session.all_reduce("large", view_of(large), view_of(large), options_of(compression)).wait();
    results[static_cast<std::size_t>(rank)].push_back(
        static_cast<float>(std::count(large.begin(), large.end(), 0.0f)));
  });
  for (const std::vector<float>& result : results) {
    CHECK(result[0] == Approx(3.0f));  // 1 + 0.2 / 0.1
    CHECK(result[1] == 1.0f);
    CHECK(result[2] == (1 << 20) - 10'486);
  }
  CHECK(world[0]
            .explain_compression(1 << 20, DataType::float32, {CompressionMode::by_setting})
            .mode == CompressionMode::sharded);
}
