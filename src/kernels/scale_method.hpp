#pragma once

#include "kernels/reduce.hpp"

namespace scalecom::kernels {

/// How floating-point elements are scaled: always with the result of computing in double and
/// rounding once, but cheaper where float32 gives the same.
enum class ScaleMethod {
  multiply_in_float,  ///< value * multiply is exact in double, or in float32 (16-bit elements)
  divide_in_float,    ///< float32 division gives the same, as double has over twice its digits
  in_double,
};

struct ScaleChoice {
  ScaleMethod method = ScaleMethod::in_double;
  Scale scale;  ///< the same scale in its simplest form
};

/// The cheapest method that gives the results of in_double for elements of `dtype`: float32,
/// float16 or bfloat16.
ScaleChoice choose_scale_method(DataType dtype, Scale scale);

}  // namespace scalecom::kernels
