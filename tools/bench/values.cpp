#include "tools/bench/values.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace scalecom::bench {
namespace {

template <class T>
T load(const std::byte* place) {
  T value;
  std::memcpy(&value, place, sizeof value);
  return value;
}

template <class T>
void store(std::byte* place, double value) {
  const T typed = static_cast<T>(value);
  std::memcpy(place, &typed, sizeof typed);
}

// Small non-negative integers only.
std::uint16_t to_half(double value) {
  if (value == 0.0) return 0;
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);  // in [0.5, 1)
  return static_cast<std::uint16_t>(((exponent + 14) << 10) |
                                    static_cast<int>((mantissa * 2.0 - 1.0) * 1024.0));
}

double from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const double mantissa = static_cast<double>(bits & 1023) / 1024.0;
  return exponent == 0 ? std::ldexp(mantissa, -14) : std::ldexp(1.0 + mantissa, exponent - 15);
}

double decode(const std::byte* place, DataType dtype) {
  switch (dtype) {
    case DataType::uint8:
    case DataType::boolean: return load<std::uint8_t>(place);
    case DataType::int8: return load<std::int8_t>(place);
    case DataType::int16: return load<std::int16_t>(place);
    case DataType::int32: return load<std::int32_t>(place);
    case DataType::int64: return static_cast<double>(load<std::int64_t>(place));
    case DataType::float32: return static_cast<double>(load<float>(place));
    case DataType::float64: return load<double>(place);
    case DataType::float16: return from_half(load<std::uint16_t>(place));
    case DataType::bfloat16:
      return static_cast<double>(
          std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(place)) << 16));
  }
  return 0.0;
}

bool is_right(double got, double expected, DataType dtype) {
  switch (dtype) {
    case DataType::float16:
    case DataType::bfloat16: return std::abs(got - expected) <= 1e-2 * std::max(1.0, expected);
    case DataType::float32:
    case DataType::float64: return std::abs(got - expected) <= 1e-5 * std::max(1.0, expected);
    default: return got == std::trunc(expected);
  }
}

}  // namespace

Values::Values(std::int64_t count, DataType dtype)
    : count_(count), dtype_(dtype), memory_(static_cast<std::size_t>(count * size_of(dtype))) {}

TensorView Values::view() { return {memory_.data(), dtype_, {count_}, {}}; }

void Values::set(std::int64_t i, double value) {
  std::byte* place = memory_.data() + i * size_of(dtype_);
  switch (dtype_) {
    case DataType::uint8: return store<std::uint8_t>(place, value);
    case DataType::int8: return store<std::int8_t>(place, value);
    case DataType::int16: return store<std::int16_t>(place, value);
    case DataType::int32: return store<std::int32_t>(place, value);
    case DataType::int64: return store<std::int64_t>(place, value);
    case DataType::float32: return store<float>(place, value);
    case DataType::float64: return store<double>(place, value);
    case DataType::boolean: return store<std::uint8_t>(place, value);
    case DataType::float16: return store<std::uint16_t>(place, to_half(value));
    case DataType::bfloat16:
      return store<std::uint16_t>(place,
                                  std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16);
  }
}

void Values::fill_input(int rank) {
  for (std::int64_t i = 0; i < count_; ++i) set(i, input(i, rank));
}

double expected_reduction(std::int64_t i, int size, ReduceOp op) {
  double result = Values::input(i, 0);
  for (int rank = 1; rank < size; ++rank) {
    const double next = Values::input(i, rank);
    switch (op) {
      case ReduceOp::min: result = std::min(result, next); break;
      case ReduceOp::max: result = std::max(result, next); break;
      case ReduceOp::product: result *= next; break;
      default: result += next;
    }
  }
  return op == ReduceOp::average ? result / size : result;
}

std::int64_t count_wrong(const TensorView& result,
                         const std::function<double(std::int64_t i)>& expected) {
  std::int64_t wrong = 0;
  const auto* data = static_cast<const std::byte*>(result.data);
  for (std::int64_t i = 0; i < result.count(); ++i) {
    const double got = decode(data + i * size_of(result.dtype), result.dtype);
    if (!is_right(got, expected(i), result.dtype)) ++wrong;
  }
  return wrong;
}

}  // namespace scalecom::bench
