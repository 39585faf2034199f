#include "kernels/reduce.hpp"

#include <algorithm>
#include <cmath>

#include "tests/support/catch.hpp"
#include "tests/unit/kernels/samples.hpp"
#include "tests/unit/kernels/targets.hpp"

using namespace scalecom;
using test::RawTensor;

namespace {

constexpr DataType kAllTypes[] = {
    DataType::uint8,   DataType::int8,    DataType::int16,   DataType::int32,   DataType::int64,
    DataType::float16, DataType::float32, DataType::float64, DataType::boolean, DataType::bfloat16};
constexpr ReduceOp kAllOps[] = {ReduceOp::sum, ReduceOp::min, ReduceOp::max, ReduceOp::product};

bool is_floating(DataType dtype) {
  return dtype == DataType::float16 || dtype == DataType::bfloat16 || dtype == DataType::float32 ||
         dtype == DataType::float64;
}

// Value by value, in the type T that the contract names.
template <class T>
T combine(T a, T b, ReduceOp op) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
    if (op == ReduceOp::min && a == b) return std::signbit(a) ? a : b;  // -0 is below +0
    if (op == ReduceOp::max && a == b) return std::signbit(a) ? b : a;
    if (op == ReduceOp::sum) return a + b;
    if (op == ReduceOp::product) return a * b;
  }
  const auto wrap = [](auto x) { return static_cast<T>(x); };
  switch (op) {
    case ReduceOp::min: return std::min(a, b);
    case ReduceOp::max: return std::max(a, b);
    case ReduceOp::product:
      return wrap(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
    default: return wrap(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  }
}

template <class T>
void reference_integers(RawTensor& out, const RawTensor& a, const RawTensor& b, std::size_t count,
                        ReduceOp op) {
  for (std::size_t i = 0; i < count; ++i) out.set(i, combine(a.get<T>(i), b.get<T>(i), op));
}

void reference(RawTensor& out, const RawTensor& a, const RawTensor& b, std::size_t count,
               DataType dtype, ReduceOp op) {
  switch (dtype) {
    case DataType::uint8: return reference_integers<std::uint8_t>(out, a, b, count, op);
    case DataType::int8: return reference_integers<std::int8_t>(out, a, b, count, op);
    case DataType::int16: return reference_integers<std::int16_t>(out, a, b, count, op);
    case DataType::int32: return reference_integers<std::int32_t>(out, a, b, count, op);
    case DataType::int64: return reference_integers<std::int64_t>(out, a, b, count, op);
    case DataType::boolean:
      for (std::size_t i = 0; i < count; ++i) {
        const bool x = a.get<std::uint8_t>(i) != 0;
        const bool y = b.get<std::uint8_t>(i) != 0;
        const bool is_or = op == ReduceOp::sum || op == ReduceOp::max;
        out.set<std::uint8_t>(i, is_or ? x || y : x && y);
      }
      return;
    case DataType::float64:
      for (std::size_t i = 0; i < count; ++i)
        out.set(i, combine(a.get<double>(i), b.get<double>(i), op));
      return;
    default:
      for (std::size_t i = 0; i < count; ++i) {
        const auto x = static_cast<float>(floating_of(a, dtype, i));
        const auto y = static_cast<float>(floating_of(b, dtype, i));
        set_floating(out, dtype, i, static_cast<double>(combine(x, y, op)));
      }
  }
}

void fill(RawTensor& tensor, DataType dtype, std::int64_t count, std::mt19937& generator) {
  if (is_floating(dtype)) return fill_floating(tensor, dtype, count, generator, 5);
  for (std::size_t i = 0; i < tensor.bytes(); ++i) {
    const auto byte = static_cast<std::uint8_t>(generator());
    tensor.set<std::uint8_t>(i, dtype == DataType::boolean ? byte % 2 : byte);
  }
}

/// Equal bits, or both NaN.
bool is_same(const RawTensor& a, const RawTensor& b, DataType dtype, std::size_t count) {
  if (!is_floating(dtype)) return a == b;
  const auto bytes = static_cast<std::size_t>(size_of(dtype));
  for (std::size_t i = 0; i < count; ++i) {
    if (std::isnan(floating_of(a, dtype, i)) && std::isnan(floating_of(b, dtype, i))) continue;
    if (std::memcmp(a.data() + i * bytes, b.data() + i * bytes, bytes) != 0) return false;
  }
  return a.is_guard_intact();
}

/// Names of the cases that went wrong.
std::string wrong_cases(std::int64_t count, std::size_t misalignment, std::mt19937& generator) {
  std::string wrong;
  for (const DataType dtype : kAllTypes) {
    for (const ReduceOp op : kAllOps) {
      RawTensor a(dtype, count, misalignment);
      RawTensor b(dtype, count, misalignment + 1);
      fill(a, dtype, count, generator);
      fill(b, dtype, count, generator);
      const auto elements = static_cast<std::size_t>(count);
      RawTensor expected(dtype, count, misalignment);
      reference(expected, a, b, elements, dtype, op);
      RawTensor out(dtype, count, misalignment);
      kernels::reduce(out.data(), a.data(), b.data(), count, dtype, op);
      RawTensor onto_a = a;
      kernels::reduce(onto_a.data(), onto_a.data(), b.data(), count, dtype, op);
      RawTensor onto_b = a;  // the second operand in the destination
      kernels::reduce(onto_b.data(), b.data(), onto_b.data(), count, dtype, op);
      for (const RawTensor* result : {&out, &onto_a, &onto_b}) {
        if (is_same(*result, expected, dtype, elements)) continue;
        wrong += std::string(" ") + to_string(dtype) + "/" + to_string(op);
      }
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("reduce equals the scalar definition for every dtype, op, size and place") {
  const unsigned seed = 7;
  std::mt19937 generator(seed);
  test::for_each_simd_target([&](const std::string& target) {
    CAPTURE(target, seed);
    CHECK(kernels::simd_target() == target);
    for (std::int64_t count = 0; count < 70; ++count) {
      CAPTURE(count);
      CHECK(wrong_cases(count, static_cast<std::size_t>(count % 9), generator) == "");
    }
    CHECK(wrong_cases(1009, 0, generator) == "");
  });
}

TEST_CASE("min and max commute to the last bit, signed zeros included") {
  test::for_each_simd_target([](const std::string& target) {
    CAPTURE(target);
    float zeros[] = {0.0f, -0.0f};
    float mirrored[] = {-0.0f, 0.0f};
    for (const ReduceOp op : {ReduceOp::min, ReduceOp::max}) {
      float result[2];
      kernels::reduce(reinterpret_cast<std::byte*>(result), reinterpret_cast<std::byte*>(zeros),
                      reinterpret_cast<std::byte*>(mirrored), 2, DataType::float32, op);
      CHECK(std::signbit(result[0]) == (op == ReduceOp::min));
      CHECK(std::signbit(result[1]) == (op == ReduceOp::min));
    }
  });
}
