#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cpu/half.hpp"
#include "scalecom/tensor.hpp"
#include "tests/support/seeds.hpp"

namespace scalecom::test {

template <class T, std::size_t kSize>
T one_of(const T (&choices)[kSize], std::mt19937_64& generator) {
  return choices[generator() % kSize];
}

inline constexpr DataType kFloats[] = {DataType::float32, DataType::float16, DataType::bfloat16};

inline void store_float(std::byte* data, DataType dtype, std::size_t index, float value) {
  switch (dtype) {
    case DataType::float16: return kernels::Float16Format::store(data, index, value);
    case DataType::bfloat16: return kernels::Bfloat16Format::store(data, index, value);
    default: return kernels::Float32Format::store(data, index, value);
  }
}

enum class Values { normal, ties, zeros, nonfinite };

/// `count` values of that kind.
inline void fill_values(std::byte* data, DataType dtype, std::int64_t count, Values values,
                        std::mt19937_64& generator) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float specials[] = {std::nanf(""), kInfinity, -kInfinity, -0.0f, 1e-40f, 6e-8f, 3e38f};
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    float value = 0.0f;
    if (values == Values::ties) value = static_cast<float>(generator() % 3) - 1.0f;
    if (values == Values::normal || values == Values::nonfinite) value = normal(generator);
    if (values == Values::nonfinite && generator() % 20 == 0) value = one_of(specials, generator);
    store_float(data, dtype, i, value);
  }
}

}  // namespace scalecom::test
