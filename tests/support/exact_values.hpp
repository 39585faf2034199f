#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "scalecom/tensor.hpp"

namespace scalecom::test {

/// Values of any dtype whose sums over a few ranks are exact, so that their order does not matter.
inline std::vector<std::byte> exact_values(DataType dtype, std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<double> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<double>(generator() % 201) / 4.0 - 25.0);
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(count * size_of(dtype)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto put = [&](auto value) {
      std::memcpy(&bytes[i * sizeof value], &value, sizeof value);
    };
    switch (dtype) {
      case DataType::float32: put(static_cast<float>(values[i])); break;
      case DataType::float64: put(values[i]); break;
      case DataType::float16:
      case DataType::bfloat16: put(std::uint16_t{0}); break;
      case DataType::int64: put(static_cast<std::int64_t>(values[i])); break;
      case DataType::int32: put(static_cast<std::int32_t>(values[i])); break;
      case DataType::int16: put(static_cast<std::int16_t>(values[i])); break;
      case DataType::int8: put(static_cast<std::int8_t>(values[i])); break;
      case DataType::uint8: put(static_cast<std::uint8_t>(std::abs(values[i]))); break;
      case DataType::boolean: put(static_cast<std::uint8_t>(values[i] > 0)); break;
    }
  }
  if (dtype == DataType::float16) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      // Multiples of 1/4 below 32 are exact: 10 bits of mantissa and an exponent of 15 + log2.
      const double magnitude = std::abs(values[i]);
      std::uint16_t half = values[i] < 0 ? 0x8000 : 0;
      if (magnitude > 0) {
        const int exponent = std::ilogb(magnitude);
        const double mantissa = std::ldexp(magnitude, -exponent) - 1.0;
        half = static_cast<std::uint16_t>(half | ((exponent + 15) << 10) |
                                          static_cast<int>(mantissa * 1024));
      }
      std::memcpy(&bytes[2 * i], &half, 2);
    }
  }
  if (dtype == DataType::bfloat16) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<float>(static_cast<int>(values[i]));
      std::uint32_t bits = 0;
      std::memcpy(&bits, &value, 4);
      const auto upper = static_cast<std::uint16_t>(bits >> 16);
      std::memcpy(&bytes[2 * i], &upper, 2);
    }
  }
  return bytes;
}

}  // namespace scalecom::test
