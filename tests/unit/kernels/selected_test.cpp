#include <cmath>
#include <limits>

#include "kernels/select.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/kernels/samples.hpp"
#include "tests/unit/kernels/targets.hpp"

using namespace scalecom;
using kernels::Gradient;
using test::RawTensor;

namespace {

constexpr DataType kGradientTypes[] = {DataType::float32, DataType::float16, DataType::bfloat16};

struct Swept {
  std::vector<float> before;
  std::vector<float> after;
  RawTensor tensor;
  Gradient gradient;
  std::vector<std::uint16_t> offsets;
  RawTensor values;
  std::vector<float> kept;
};

Swept sweep_random(DataType dtype, std::int64_t count, std::int64_t chunk, float beta,
                   unsigned special_period = 0) {
  std::mt19937 generator(static_cast<unsigned>(count * 31 + chunk));
  std::normal_distribution<float> normal;
  const std::int64_t selected = (count + chunk - 1) / chunk;
  Swept swept{std::vector<float>(static_cast<std::size_t>(count)),
              {},
              RawTensor(dtype, count),
              {},
              std::vector<std::uint16_t>(static_cast<std::size_t>(selected)),
              RawTensor(DataType::float32, selected),
              std::vector<float>(static_cast<std::size_t>(selected))};
  for (float& m : swept.before) m = normal(generator);
  fill_floating(swept.tensor, dtype, count, generator, special_period);
  swept.gradient = {swept.tensor.data(), dtype, count, 0.5f};
  swept.after = swept.before;
  kernels::select_and_sweep(swept.after.data(), swept.gradient, beta, chunk, swept.offsets.data(),
                            {swept.values.data(), DataType::float32,
                             std::numeric_limits<float>::infinity(), swept.kept.data()});
  return swept;
}

}  // namespace

TEST_CASE("a sweep takes p out and leaves (1-beta) m, exactly zero at beta 1") {
  const float beta = GENERATE(1.0f, 0.3f, 0.1f);
  for (const DataType dtype : kGradientTypes) {
    for (const std::int64_t chunk : {1, 7, 64, 257}) {
      const Swept swept = sweep_random(dtype, 1009, chunk, beta);
      double worst = 0.0;
      int not_exact = 0;
      for (std::size_t j = 0; j < swept.offsets.size(); ++j) {
        const std::size_t i = j * static_cast<std::size_t>(chunk) + swept.offsets[j];
        const double g = floating_of(swept.tensor, dtype, i) * 0.5;
        const double m = swept.before[i];
        const auto value = swept.values.get<float>(j);
        worst = std::max(worst, std::abs(static_cast<double>(value) - (m + g)));
        worst = std::max(worst, std::abs(static_cast<double>(swept.after[i]) -
                                         (1.0 - static_cast<double>(beta)) * m));
        not_exact += beta == 1.0f &&
                     (swept.after[i] != 0.0f || value != swept.before[i] + static_cast<float>(g));
      }
      CAPTURE(beta, to_string(dtype), chunk);
      CHECK(worst < 1e-6);
      CHECK(not_exact == 0);
    }
  }
}

TEST_CASE("restoring and undoing give the residual before the sweep, NaN and Inf included") {
  const float beta = GENERATE(1.0f, 0.3f, 0.1f);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype : kGradientTypes) {
      for (const std::int64_t chunk : {1, 7, 64, 257}) {
        const Swept swept = sweep_random(dtype, 1009, chunk, beta, 30);
        std::vector<float> residual = swept.after;
        kernels::restore_selected(residual.data(), 1009, chunk, swept.offsets.data(),
                                  swept.kept.data());
        kernels::undo_sweep(residual.data(), swept.gradient, beta);
        double worst = 0.0;
        int changed_at_nonfinite = 0;
        for (std::size_t i = 0; i < residual.size(); ++i) {
          const double g = floating_of(swept.tensor, dtype, i);
          worst = std::max(worst, std::abs(static_cast<double>(residual[i]) -
                                           static_cast<double>(swept.before[i])));
          changed_at_nonfinite += !std::isfinite(g) && residual[i] != swept.before[i];
        }
        CAPTURE(target, beta, to_string(dtype), chunk);
        CHECK(worst < 1e-6);
        CHECK(changed_at_nonfinite == 0);
      }
    }
  });
}

TEST_CASE("widening gives the values of all three formats exactly") {
  std::mt19937 generator(31);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype : kGradientTypes) {
      RawTensor source(dtype, 103);
      fill_floating(source, dtype, 103, generator, 10);
      std::vector<float> values(103);
      kernels::widen(values.data(), source.data(), dtype, 103);
      int wrong = 0;
      for (std::size_t j = 0; j < values.size(); ++j) {
        const double expected = floating_of(source, dtype, j);
        wrong += values[j] != expected && !(std::isnan(values[j]) && std::isnan(expected));
      }
      CAPTURE(target, to_string(dtype));
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("filling puts the values on the selected coordinates and zero everywhere else") {
  std::mt19937 generator(23);
  std::normal_distribution<float> normal;
  for (const DataType dtype : kGradientTypes) {
    for (const std::int64_t chunk : {1, 2, 33, 100, 4096, 65536}) {
      // The last is long enough to be written past the caches.
      for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, chunk,
                                       3 * chunk + chunk / 2 + 1, std::int64_t{2'100'000}}) {
        const std::int64_t selected = (count + chunk - 1) / chunk;
        std::vector<std::uint16_t> offsets;
        std::vector<float> values;
        RawTensor expected(dtype, count, chunk % 2 == 0 ? 4 : 1);
        for (std::int64_t i = 0; i < count; ++i)
          set_floating(expected, dtype, static_cast<std::size_t>(i), 0.0);
        for (std::int64_t j = 0; j < selected; ++j) {
          const auto length = static_cast<unsigned>(std::min(chunk, count - j * chunk));
          offsets.push_back(static_cast<std::uint16_t>(generator() % length));
          values.push_back(normal(generator));
          set_floating(expected, dtype, static_cast<std::size_t>(j * chunk + offsets.back()),
                       values.back());
        }
        RawTensor result(dtype, count, chunk % 2 == 0 ? 4 : 1);
        test::for_each_simd_target([&](const std::string& target) {
          std::fill_n(result.data(), result.bytes(), std::byte{0x3C});
          kernels::fill_selected(result.data(), dtype, count, chunk, offsets.data(), values.data());
          CAPTURE(target, to_string(dtype), chunk, count);
          CHECK(result == expected);
        });
      }
    }
  }
}
