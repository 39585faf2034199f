#include <cmath>
#include <random>

#include "kernels/reduce.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/kernels/samples.hpp"
#include "tests/unit/kernels/targets.hpp"

using namespace scalecom;
using kernels::Scale;
using test::RawTensor;

namespace {

constexpr Scale kScales[] = {{1.0, 1.0},  {1.0, 3.0},    {1.0, 4.0},    {0.5, 1.0},  {0.1, 1.0},
                             {0.25, 7.0}, {1.0 / 3, 33}, {1.0, 1e5},    {-2.0, 3.0}, {1e-3, 0.7},
                             {1.0, 2049}, {3.0, 1024.0}, {1.0, 65536.0}};

/// The 16-bit code nearest to `value`, by looking at its neighbours; ties go to the even code.
std::uint16_t nearest(double value, DataType dtype) {
  const auto widen = dtype == DataType::float16 ? kernels::float_of_half : kernels::float_of_bfloat;
  const auto narrow =
      dtype == DataType::float16 ? kernels::half_of_float : kernels::bfloat_of_float;
  const std::uint16_t guess = narrow(static_cast<float>(value));
  std::uint16_t best = guess;
  for (const int step : {-1, 1}) {
    const auto other = static_cast<std::uint16_t>(guess + step);
    if ((other & 0x8000) != (guess & 0x8000)) continue;
    if (!std::isfinite(widen(other)) || !std::isfinite(widen(guess))) continue;
    const double distance = std::abs(static_cast<double>(widen(other)) - value);
    const double best_distance = std::abs(static_cast<double>(widen(best)) - value);
    if (distance < best_distance || (distance == best_distance && other % 2 == 0)) best = other;
  }
  return best;
}

bool is_scaled(const RawTensor& result, const RawTensor& source, DataType dtype, std::size_t i,
               Scale scale) {
  const double exact = floating_of(source, dtype, i) * scale.multiply / scale.divide;
  if (std::isnan(exact)) return std::isnan(floating_of(result, dtype, i));
  switch (dtype) {
    case DataType::float64: return result.get<double>(i) == exact;
    case DataType::float32: return result.get<float>(i) == static_cast<float>(exact);
    default: return result.get<std::uint16_t>(i) == nearest(exact, dtype);
  }
}

template <class T>
int wrong_integers(DataType dtype, Scale scale) {
  const std::vector<T> values = {0,
                                 1,
                                 2,
                                 3,
                                 7,
                                 100,
                                 std::numeric_limits<T>::max(),
                                 std::numeric_limits<T>::min(),
                                 static_cast<T>(-5)};
  std::vector<T> result(values.size());
  kernels::scale_copy(reinterpret_cast<std::byte*>(result.data()),
                      reinterpret_cast<const std::byte*>(values.data()),
                      static_cast<std::int64_t>(values.size()), dtype, scale);
  int wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const long double exact =
        std::trunc(static_cast<double>(values[i]) * scale.multiply / scale.divide);
    const long double clamped = std::clamp<long double>(exact, std::numeric_limits<T>::min(),
                                                        std::numeric_limits<T>::max());
    const T expected = scale.is_identity() ? values[i] : static_cast<T>(clamped);
    wrong += result[i] != expected;
  }
  return wrong;
}

}  // namespace

TEST_CASE("scale_copy rounds the double result once, for every floating-point dtype") {
  const unsigned seed = 11;
  std::mt19937 generator(seed);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype :
         {DataType::float16, DataType::bfloat16, DataType::float32, DataType::float64}) {
      for (const Scale scale : kScales) {
        const std::int64_t count = 1000 + static_cast<std::int64_t>(generator() % 40);
        RawTensor source(dtype, count, 3);
        fill_floating(source, dtype, count, generator, 0);
        RawTensor copy(dtype, count, 1);
        kernels::scale_copy(copy.data(), source.data(), count, dtype, scale);
        RawTensor in_place = source;
        kernels::scale_copy(in_place.data(), in_place.data(), count, dtype, scale);
        int wrong = 0;
        for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
          wrong += !is_scaled(copy, source, dtype, i, scale);
          wrong += !is_scaled(in_place, source, dtype, i, scale);
        }
        CAPTURE(target, seed, to_string(dtype), scale.multiply, scale.divide);
        CHECK(wrong == 0);
        CHECK(copy.is_guard_intact());
        CHECK(in_place.is_guard_intact());
      }
    }
  });
}

TEST_CASE("NaN and infinities stay what they are when scaled") {
  test::for_each_simd_target([](const std::string& target) {
    for (const DataType dtype :
         {DataType::float16, DataType::bfloat16, DataType::float32, DataType::float64}) {
      for (const Scale scale : kScales) {
        RawTensor values(dtype, 3);
        set_floating(values, dtype, 0, std::nan(""));
        set_floating(values, dtype, 1, INFINITY);
        set_floating(values, dtype, 2, -INFINITY);
        kernels::scale_copy(values.data(), values.data(), 3, dtype, scale);
        CAPTURE(target, to_string(dtype), scale.multiply, scale.divide);
        CHECK(std::isnan(floating_of(values, dtype, 0)));
        CHECK(floating_of(values, dtype, 1) == (scale.multiply < 0 ? -INFINITY : INFINITY));
        CHECK(floating_of(values, dtype, 2) == (scale.multiply < 0 ? INFINITY : -INFINITY));
      }
    }
  });
}

TEST_CASE("float32 divided by an integer equals float division") {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(997);
  for (float& value : values) value = normal(generator);
  for (int ranks = 1; ranks <= 100; ++ranks) {
    std::vector<float> result(values.size());
    kernels::scale_copy(reinterpret_cast<std::byte*>(result.data()),
                        reinterpret_cast<const std::byte*>(values.data()), 997, DataType::float32,
                        {1.0, static_cast<double>(ranks)});
    std::vector<float> expected = values;
    for (float& value : expected) value /= static_cast<float>(ranks);
    CHECK(result == expected);
  }
}

TEST_CASE("integers truncate and stop at their limits; booleans are copied") {
  for (const Scale scale : kScales) {
    CAPTURE(scale.multiply, scale.divide);
    CHECK(wrong_integers<std::uint8_t>(DataType::uint8, scale) == 0);
    CHECK(wrong_integers<std::int8_t>(DataType::int8, scale) == 0);
    CHECK(wrong_integers<std::int16_t>(DataType::int16, scale) == 0);
    CHECK(wrong_integers<std::int32_t>(DataType::int32, scale) == 0);
    CHECK(wrong_integers<std::int64_t>(DataType::int64, scale) == 0);
  }
  std::byte booleans[3] = {std::byte{1}, std::byte{0}, std::byte{1}};
  std::byte copy[3] = {};
  kernels::scale_copy(copy, booleans, 3, DataType::boolean, {1.0, 1.0});
  CHECK(std::equal(copy, copy + 3, booleans));
}
