#include <algorithm>
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
constexpr std::int64_t kChunks[] = {1,   2,   3,   4,   5,    7,    8,    9,    12, 15,
                                    16,  17,  25,  31,  32,   33,   63,   64,   65, 100,
                                    255, 256, 257, 400, 1000, 1024, 4095, 65536};

enum class Values { normal, ties, zeros, nonfinite };

struct Case {
  DataType dtype;
  std::int64_t count;
  std::int64_t chunk;
  float beta;
  float prescale;
  DataType values = DataType::float32;
  float limit = std::numeric_limits<float>::infinity();

  std::int64_t selected() const { return (count + chunk - 1) / chunk; }
};

struct Outcome {
  explicit Outcome(const Case& c, std::vector<float> residual_before)
      : residual(std::move(residual_before)),
        offsets(static_cast<std::size_t>(c.selected()), 77),
        values(c.values, c.selected()),
        kept(offsets.size()) {}

  kernels::Selected selected(const Case& c) {
    return {values.data(), c.values, c.limit, kept.data()};
  }

  std::vector<float> residual;
  std::vector<std::uint16_t> offsets;
  RawTensor values;
  std::vector<float> kept;
  std::int64_t nonfinite = 0;
};

/// NaN equals NaN.
bool is_same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

struct Input {
  std::vector<float> residual;
  RawTensor gradient;
};

Input make_input(const Case& c, Values values, std::mt19937& generator) {
  Input input{std::vector<float>(static_cast<std::size_t>(c.count)), RawTensor(c.dtype, c.count)};
  fill_floating(input.gradient, c.dtype, c.count, generator, values == Values::nonfinite ? 20 : 0);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < input.residual.size(); ++i) {
    switch (values) {
      case Values::ties:
        input.residual[i] = static_cast<float>(generator() % 3) - 1.0f;
        set_floating(input.gradient, c.dtype, i, static_cast<double>(generator() % 3) - 1.0);
        break;
      case Values::zeros: set_floating(input.gradient, c.dtype, i, 0.0); break;
      default: input.residual[i] = normal(generator);
    }
  }
  return input;
}

/// What the element at `i`, the selected one of chunk j, gives.
void take(const Case& c, const Input& input, std::size_t i, std::size_t j, Outcome& outcome) {
  const double beta = c.beta;
  const float g = static_cast<float>(floating_of(input.gradient, c.dtype, i)) * c.prescale;
  const float swept = outcome.residual[i];
  const auto p = static_cast<float>(swept + (1.0 - beta) * g);
  set_floating(outcome.values, c.values, j, std::clamp(p, -c.limit, c.limit));
  const double sent = floating_of(outcome.values, c.values, j);
  outcome.kept[j] = swept;
  outcome.residual[i] = static_cast<float>((1.0 - beta) * (swept - beta * g) + beta * (p - sent));
}

/// The definition, one element at a time.
Outcome reference(const Case& c, const Input& input) {
  Outcome outcome(c, input.residual);
  const auto chunk = static_cast<std::size_t>(c.chunk);
  float best = -1.0f;
  for (std::size_t i = 0; i < input.residual.size(); ++i) {
    const float g = static_cast<float>(floating_of(input.gradient, c.dtype, i)) * c.prescale;
    const float p = input.residual[i] + g;
    if (std::isfinite(p)) {
      const float change = c.beta * g;
      outcome.residual[i] += change;
    } else {
      ++outcome.nonfinite;
    }
    std::uint16_t& offset = outcome.offsets[i / chunk];
    if (i % chunk == 0) {
      offset = 0;
      best = -1.0f;
    }
    // NaN above infinity above everything.
    const float magnitude = std::abs(p);
    const bool is_larger = std::isnan(p) ? !std::isnan(best) : magnitude > best;
    if (is_larger) {
      best = magnitude;
      offset = static_cast<std::uint16_t>(i % chunk);
    }
  }
  for (std::size_t j = 0; j < outcome.offsets.size(); ++j) {
    take(c, input, j * chunk + outcome.offsets[j], j, outcome);
  }
  return outcome;
}

std::string differences(const Case& c, const Input& input) {
  const Outcome expected = reference(c, input);
  const Gradient gradient{input.gradient.data(), c.dtype, c.count, c.prescale};
  Outcome leader(c, input.residual);
  leader.nonfinite = kernels::select_and_sweep(leader.residual.data(), gradient, c.beta, c.chunk,
                                               leader.offsets.data(), leader.selected(c));
  Outcome follower(c, input.residual);
  follower.nonfinite =
      kernels::gather_and_sweep(follower.residual.data(), gradient, c.beta, c.chunk,
                                expected.offsets.data(), follower.selected(c));
  std::string wrong;
  if (leader.offsets != expected.offsets) wrong += " offsets";
  for (const auto& [role, outcome] :
       {std::pair{" leader's", &leader}, {" follower's", &follower}}) {
    if (!is_same(outcome->residual, expected.residual)) wrong += role + std::string(" residual");
    if (!(outcome->values == expected.values)) wrong += role + std::string(" values");
    if (!is_same(outcome->kept, expected.kept)) wrong += role + std::string(" kept");
    if (outcome->nonfinite != expected.nonfinite) wrong += role + std::string(" count");
  }
  return wrong;
}

}  // namespace

TEST_CASE("a sweep equals its definition to the bit, for every dtype, chunk length and target") {
  const unsigned seed = 5;
  std::mt19937 generator(seed);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype : kGradientTypes) {
      for (const std::int64_t chunk : kChunks) {
        for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, chunk - 1, chunk,
                                         chunk + 1, 3 * chunk + 5, std::int64_t{1009}}) {
          for (const Values values : {Values::normal, Values::ties, Values::zeros}) {
            const Case c{dtype, count, chunk, chunk % 2 == 0 ? 0.1f : 1.0f,
                         chunk % 3 == 0 ? 0.3f : 1.0f};
            CAPTURE(target, seed, to_string(dtype), chunk, count, static_cast<int>(values));
            CHECK(differences(c, make_input(c, values, generator)) == "");
          }
        }
      }
    }
  });
}

TEST_CASE("values of 16 bits are rounded, kept below the limit, and their rest stays in m") {
  std::mt19937 generator(29);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype : kGradientTypes) {
      for (const DataType values : {DataType::float16, DataType::bfloat16}) {
        for (const std::int64_t chunk : {1, 3, 25, 100, 1000}) {
          const Case c{dtype, 3 * chunk + 501, chunk, chunk == 25 ? 1.0f : 0.3f,
                       1.0f,  values,          2.5f};
          const Input input = make_input(c, Values::normal, generator);
          CAPTURE(target, to_string(dtype), to_string(values), chunk);
          CHECK(differences(c, input) == "");
          // sent + what stays = m + g, to float32's rounding.
          Outcome outcome(c, input.residual);
          kernels::select_and_sweep(outcome.residual.data(),
                                    {input.gradient.data(), dtype, c.count, 1.0f}, c.beta, chunk,
                                    outcome.offsets.data(), outcome.selected(c));
          double worst = 0.0;
          for (std::size_t j = 0; j < outcome.offsets.size(); ++j) {
            const std::size_t i = j * static_cast<std::size_t>(chunk) + outcome.offsets[j];
            const double m = input.residual[i];
            const double sent = floating_of(outcome.values, values, j);
            const double p = m + floating_of(input.gradient, dtype, i);
            const double after = (1.0 - double{c.beta}) * m + double{c.beta} * (p - sent);
            worst = std::max({worst, std::abs(outcome.residual[i] - after), std::abs(sent) - 2.5});
          }
          CHECK(worst < 2e-6);
        }
      }
    }
  });
}

TEST_CASE("where m + g is not finite, m keeps its value and the element is counted") {
  std::mt19937 generator(17);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype : kGradientTypes) {
      for (const std::int64_t chunk : kChunks) {
        const Case c{dtype, 2 * chunk + 41, chunk, 0.3f, 1.0f};
        const Input input = make_input(c, Values::nonfinite, generator);
        CAPTURE(target, to_string(dtype), chunk);
        CHECK(differences(c, input) == "");
        // Those that were selected are restored, as the tensor goes dense.
        Outcome outcome(c, input.residual);
        kernels::select_and_sweep(outcome.residual.data(),
                                  {input.gradient.data(), dtype, c.count, 1.0f}, 0.3f, chunk,
                                  outcome.offsets.data(), outcome.selected(c));
        kernels::restore_selected(outcome.residual.data(), c.count, chunk, outcome.offsets.data(),
                                  outcome.kept.data());
        CHECK(std::all_of(outcome.residual.begin(), outcome.residual.end(),
                          [](float m) { return std::isfinite(m); }));
      }
    }
  });
}

TEST_CASE("an overflow of m + g counts as not finite and leaves m alone") {
  test::for_each_simd_target([](const std::string& target) {
    CAPTURE(target);
    const std::vector<float> g(37, 2e38f);
    const Case c{DataType::float32, 37, 37, 1.0f, 1.0f};
    Outcome outcome(c, std::vector<float>(37, 3e38f));
    CHECK(kernels::select_and_sweep(
              outcome.residual.data(),
              {reinterpret_cast<const std::byte*>(g.data()), DataType::float32, 37, 1.0f}, 1.0f, 37,
              outcome.offsets.data(), outcome.selected(c)) == 37);
    kernels::restore_selected(outcome.residual.data(), 37, 37, outcome.offsets.data(),
                              outcome.kept.data());
    CHECK(outcome.residual == std::vector<float>(37, 3e38f));
  });
}

TEST_CASE("of equal magnitudes the lowest place is selected, in a short last chunk too") {
  test::for_each_simd_target([](const std::string& target) {
    for (const std::int64_t chunk : kChunks) {
      const std::int64_t count = 2 * chunk + (chunk > 1 ? chunk / 2 : 0);
      const Case c{DataType::float32, count, chunk, 1.0f, 1.0f};
      Outcome outcome(c, std::vector<float>(static_cast<std::size_t>(count), 0.0f));
      std::vector<float> g(outcome.residual.size());
      for (std::size_t i = 0; i < g.size(); ++i) g[i] = i % 2 == 0 ? 2.0f : -2.0f;
      kernels::select_and_sweep(
          outcome.residual.data(),
          {reinterpret_cast<const std::byte*>(g.data()), DataType::float32, count, 1.0f}, 1.0f,
          chunk, outcome.offsets.data(), outcome.selected(c));
      CAPTURE(target, chunk, count);
      CHECK(std::count(outcome.offsets.begin(), outcome.offsets.end(), 0) ==
            static_cast<std::ptrdiff_t>(outcome.offsets.size()));
    }
  });
}
