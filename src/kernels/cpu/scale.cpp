#include "kernels/cpu/scale.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.hpp"

#define HWY_TARGET_INCLUDE "kernels/cpu/scale_inl.hpp"
#include <hwy/foreach_target.h>
// The target of the compiler's own flags comes last.
#include "kernels/cpu/scale_inl.hpp"

namespace scalecom::kernels {
namespace {

HWY_EXPORT(run_scale);

bool is_float(double value) { return static_cast<double>(static_cast<float>(value)) == value; }

/// True when `value` has at most `digits` significant bits and is far from float32's limits.
bool is_short(double value, int digits) {
  if (value == 0.0) return true;
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);
  const double scaled = std::ldexp(mantissa, digits);
  return scaled == std::trunc(scaled) && exponent > -64 && exponent < 64;
}

/// Division by a power of two is multiplication by its inverse.
Scale simplified(Scale scale) {
  int exponent = 0;
  const double mantissa = std::frexp(scale.divide, &exponent);
  const double quotient = scale.multiply / scale.divide;
  if (std::abs(mantissa) == 0.5 && quotient * scale.divide == scale.multiply) {
    return {quotient, 1.0};
  }
  return scale;
}

ScaleMethod method_for(DataType dtype, Scale scale) {
  const bool is_wide = dtype == DataType::float32;
  // Of 16-bit elements with at most 11 digits: the product has 24; a quotient by at most 11 digits
  // is never so close to the middle of two neighbours that float32 cannot tell.
  if (scale.divide == 1.0 && (is_wide ? is_float(scale.multiply) : is_short(scale.multiply, 13))) {
    return ScaleMethod::multiply_in_float;
  }
  if (scale.multiply == 1.0 && (is_wide ? is_float(scale.divide) : is_short(scale.divide, 11))) {
    return ScaleMethod::divide_in_float;
  }
  return ScaleMethod::in_double;
}

/// Truncates; beyond T's range the nearest limit, and zero for NaN.
template <class T>
T integer_of(double value) {
  // As double, T's largest value may round up to one that is out of range.
  if (value >= static_cast<double>(std::numeric_limits<T>::max())) {
    return std::numeric_limits<T>::max();
  }
  if (value <= static_cast<double>(std::numeric_limits<T>::min())) {
    return std::numeric_limits<T>::min();
  }
  return std::isnan(value) ? T{0} : static_cast<T>(value);
}

template <class T>
void scale_integers(const ScaleArguments& arguments) {
  for (std::size_t i = 0; i < arguments.count; ++i) {
    T value;
    std::memcpy(&value, arguments.source + i * sizeof(T), sizeof(T));
    const double exact =
        static_cast<double>(value) * arguments.scale.multiply / arguments.scale.divide;
    value = integer_of<T>(exact);
    std::memcpy(arguments.destination + i * sizeof(T), &value, sizeof(T));
  }
}

}  // namespace

void scale_copy(std::byte* destination, const std::byte* source, std::int64_t count, DataType dtype,
                Scale scale) {
  SCALECOM_ASSERT(count >= 0, fmt::format("{} elements", count));
  if (count == 0) return;
  if (scale.is_identity()) {
    if (destination != source) {
      std::memcpy(destination, source, static_cast<std::size_t>(count * size_of(dtype)));
    }
    return;
  }
  SCALECOM_ASSERT(dtype != DataType::boolean,
                  fmt::format("booleans times {} / {}", scale.multiply, scale.divide));
  scale = simplified(scale);
  const ScaleArguments arguments{destination, source, static_cast<std::size_t>(count),
                                 dtype,       scale,  method_for(dtype, scale)};
  switch (dtype) {
    case DataType::uint8: return scale_integers<std::uint8_t>(arguments);
    case DataType::int8: return scale_integers<std::int8_t>(arguments);
    case DataType::int16: return scale_integers<std::int16_t>(arguments);
    case DataType::int32: return scale_integers<std::int32_t>(arguments);
    case DataType::int64: return scale_integers<std::int64_t>(arguments);
    default: return HWY_DYNAMIC_DISPATCH(run_scale)(arguments);
  }
}

}  // namespace scalecom::kernels
