#pragma once

#include <cmath>
#include <limits>

#include "scalecom/tensor.hpp"

namespace scalecom {

/// What n ranks may send each, so that the sum is finite although each addition may round up by a
/// factor of 1 + u.
inline float value_limit(DataType dtype, int size) {
  const auto limit = [size](double largest, double u) {
    return static_cast<float>(largest / size / std::pow(1.0 + u, size));
  };
  switch (dtype) {
    case DataType::float16: return limit(65504.0, 0x1p-11);
    case DataType::bfloat16: return limit(0x1.FEp127, 0x1p-8);
    default: return std::numeric_limits<float>::infinity();
  }
}

}  // namespace scalecom
