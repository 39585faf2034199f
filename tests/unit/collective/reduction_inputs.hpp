#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "base/wait.hpp"
#include "kernels/reduce.hpp"
#include "scalecom/tensor.hpp"
#include "tests/support/repeat.hpp"

namespace scalecom::test {

using Bytes = std::vector<std::byte>;

inline WaitContext patience() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

/// A rank's input: small random numbers, valid for any dtype (0 or 1 for bool), again and again.
inline Bytes input_of(int rank, std::int64_t count, DataType dtype) {
  std::mt19937 generator(static_cast<unsigned>(rank + 1) * 2654435761u);
  Bytes bytes(static_cast<std::size_t>(count * size_of(dtype)));
  constexpr std::int64_t kPeriod = 1021;
  for (std::int64_t i = 0; i < std::min(count, kPeriod); ++i) {
    const auto draw = static_cast<int>(generator() % 5) + 1;
    std::byte* place = bytes.data() + i * size_of(dtype);
    const auto put = [place](auto value) { std::memcpy(place, &value, sizeof value); };
    switch (dtype) {
      case DataType::uint8:
      case DataType::int8: put(static_cast<std::int8_t>(draw)); break;
      case DataType::int16: put(static_cast<std::int16_t>(draw)); break;
      case DataType::int32: put(draw); break;
      case DataType::int64: put(static_cast<std::int64_t>(draw)); break;
      // Values whose sums are not exact, so that the order of reduction shows.
      case DataType::float32:
        put(static_cast<float>(draw) / 3.0f + static_cast<float>(rank));
        break;
      case DataType::float64: put(static_cast<double>(draw) / 3.0); break;
      case DataType::float16: put(static_cast<std::uint16_t>(0x3c00 + 37 * draw)); break;
      case DataType::bfloat16: put(static_cast<std::uint16_t>(0x3f80 + draw)); break;
      case DataType::boolean: put(static_cast<std::uint8_t>(draw % 2)); break;
    }
  }
  repeat(bytes, static_cast<std::size_t>(kPeriod * size_of(dtype)));
  return bytes;
}

/// ((r0 op r1) op r2) ... with the library's own element operation, which has its own tests.
inline Bytes serial_result(int size, std::int64_t count, DataType dtype, ReduceOp op) {
  Bytes result = input_of(0, count, dtype);
  for (int rank = 1; rank < size; ++rank) {
    const Bytes next = input_of(rank, count, dtype);
    kernels::reduce(result.data(), result.data(), next.data(), count, dtype, op);
  }
  return result;
}

inline double as_double(const Bytes& bytes, std::int64_t i, DataType dtype) {
  // One element against 1.0: the cheapest way to any dtype's value is a scaled copy to itself and
  // a cast of the few that have a C++ type; 16-bit floats are compared by bits instead.
  const std::byte* place = bytes.data() + i * size_of(dtype);
  if (dtype == DataType::float32) {
    float value;
    std::memcpy(&value, place, sizeof value);
    return static_cast<double>(value);
  }
  double value;
  std::memcpy(&value, place, sizeof value);
  return value;
}

inline bool is_close(const Bytes& got, const Bytes& expected, DataType dtype) {
  if (dtype != DataType::float32 && dtype != DataType::float64) return got == expected;
  const double tolerance = dtype == DataType::float32 ? 1e-5 : 1e-13;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(got.size()) / size_of(dtype); ++i) {
    const double a = as_double(got, i, dtype);
    const double b = as_double(expected, i, dtype);
    if (std::abs(a - b) > tolerance * std::max(1.0, std::abs(b))) return false;
  }
  return true;
}

}  // namespace scalecom::test
