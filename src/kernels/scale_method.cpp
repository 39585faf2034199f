#include "kernels/scale_method.hpp"

#include <cmath>

namespace scalecom::kernels {
namespace {

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

}  // namespace

ScaleChoice choose_scale_method(DataType dtype, Scale scale) {
  scale = simplified(scale);
  return {method_for(dtype, scale), scale};
}

}  // namespace scalecom::kernels
