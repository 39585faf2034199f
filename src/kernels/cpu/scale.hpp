#pragma once

#include <cstddef>

#include "kernels/reduce.hpp"

namespace scalecom::kernels {

/// How floating-point elements are scaled: always with the result of computing in double and
/// rounding once, but cheaper where float32 gives the same.
enum class ScaleMethod {
  multiply_in_float,  ///< value * multiply is exact in double, or in float32 (16-bit elements)
  divide_in_float,    ///< float32 division gives the same, as double has over twice its digits
  in_double,
};

struct ScaleArguments {
  std::byte* destination = nullptr;
  const std::byte* source = nullptr;
  std::size_t count = 0;
  DataType dtype = DataType::float32;
  Scale scale;
  ScaleMethod method = ScaleMethod::in_double;
};

}  // namespace scalecom::kernels
