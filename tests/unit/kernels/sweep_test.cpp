#include <algorithm>
#include <cmath>

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
};

struct Outcome {
  std::vector<float> memory;
  std::vector<std::uint16_t> offsets;
  std::int64_t nonfinite = 0;
};

struct Input {
  std::vector<float> memory;
  RawTensor gradient;
};

Input make_input(const Case& c, Values values, std::mt19937& generator) {
  Input input{std::vector<float>(static_cast<std::size_t>(c.count)), RawTensor(c.dtype, c.count)};
  fill_floating(input.gradient, c.dtype, c.count, generator, values == Values::nonfinite ? 20 : 0);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < input.memory.size(); ++i) {
    switch (values) {
      case Values::ties:
        input.memory[i] = static_cast<float>(generator() % 3) - 1.0f;
        set_floating(input.gradient, c.dtype, i, static_cast<double>(generator() % 3) - 1.0);
        break;
      case Values::zeros: set_floating(input.gradient, c.dtype, i, 0.0); break;
      default: input.memory[i] = normal(generator);
    }
  }
  return input;
}

/// The definition, one element at a time.
Outcome reference(const Case& c, const Input& input) {
  Outcome outcome{input.memory, {}, 0};
  const auto chunk = static_cast<std::size_t>(c.chunk);
  float best = -1.0f;
  for (std::size_t i = 0; i < input.memory.size(); ++i) {
    const float g = static_cast<float>(floating_of(input.gradient, c.dtype, i)) * c.prescale;
    const float p = input.memory[i] + g;
    if (std::isfinite(p)) {
      const float change = c.beta * g;
      outcome.memory[i] += change;
    } else {
      ++outcome.nonfinite;
    }
    if (i % chunk == 0) {
      outcome.offsets.push_back(0);
      best = -1.0f;
    }
    // NaN above infinity above everything.
    const float magnitude = std::abs(p);
    const bool is_larger = std::isnan(p) ? !std::isnan(best) : magnitude > best;
    if (is_larger) {
      best = magnitude;
      outcome.offsets.back() = static_cast<std::uint16_t>(i % chunk);
    }
  }
  return outcome;
}

std::string differences(const Case& c, const Input& input) {
  const Outcome expected = reference(c, input);
  const Gradient gradient{input.gradient.data(), c.dtype, c.count, c.prescale};
  Outcome leader{input.memory, std::vector<std::uint16_t>(expected.offsets.size(), 77), 0};
  leader.nonfinite = kernels::sweep_and_select(leader.memory.data(), gradient, c.beta, c.chunk,
                                               leader.offsets.data());
  std::vector<float> follower = input.memory;
  const std::int64_t nonfinite = kernels::sweep(follower.data(), gradient, c.beta);
  std::string wrong;
  if (leader.memory != expected.memory) wrong += " leader's memory";
  if (follower != expected.memory) wrong += " follower's memory";
  if (leader.offsets != expected.offsets) wrong += " offsets";
  if (leader.nonfinite != expected.nonfinite) wrong += " leader's count";
  if (nonfinite != expected.nonfinite) wrong += " follower's count";
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

TEST_CASE("where m + g is not finite, m keeps its value and the element is counted") {
  std::mt19937 generator(17);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype : kGradientTypes) {
      for (const std::int64_t chunk : kChunks) {
        const Case c{dtype, 2 * chunk + 41, chunk, 0.3f, 1.0f};
        const Input input = make_input(c, Values::nonfinite, generator);
        CAPTURE(target, to_string(dtype), chunk);
        CHECK(differences(c, input) == "");
        std::vector<float> memory = input.memory;
        kernels::sweep(memory.data(), {input.gradient.data(), dtype, c.count, 1.0f}, 0.3f);
        CHECK(std::all_of(memory.begin(), memory.end(), [](float m) { return std::isfinite(m); }));
      }
    }
  });
}

TEST_CASE("an overflow of m + g counts as not finite and leaves m alone") {
  test::for_each_simd_target([](const std::string& target) {
    CAPTURE(target);
    std::vector<float> memory(37, 3e38f);
    const std::vector<float> g(37, 2e38f);
    const Gradient gradient{reinterpret_cast<const std::byte*>(g.data()), DataType::float32, 37,
                            1.0f};
    CHECK(kernels::sweep(memory.data(), gradient, 1.0f) == 37);
    CHECK(memory == std::vector<float>(37, 3e38f));
  });
}

TEST_CASE("of equal magnitudes the lowest place is selected, in a short last chunk too") {
  test::for_each_simd_target([](const std::string& target) {
    for (const std::int64_t chunk : kChunks) {
      const std::int64_t count = 2 * chunk + (chunk > 1 ? chunk / 2 : 0);
      std::vector<float> memory(static_cast<std::size_t>(count), 0.0f);
      std::vector<float> g(memory.size());
      for (std::size_t i = 0; i < g.size(); ++i) g[i] = i % 2 == 0 ? 2.0f : -2.0f;
      std::vector<std::uint16_t> offsets(static_cast<std::size_t>((count + chunk - 1) / chunk), 99);
      kernels::sweep_and_select(
          memory.data(),
          {reinterpret_cast<const std::byte*>(g.data()), DataType::float32, count, 1.0f}, 1.0f,
          chunk, offsets.data());
      CAPTURE(target, chunk, count);
      CHECK(std::count(offsets.begin(), offsets.end(), 0) ==
            static_cast<std::ptrdiff_t>(offsets.size()));
    }
  });
}
