#pragma once

#include <cstddef>
#include <cstdint>

#include "scalecom/tensor.hpp"

namespace scalecom::kernels {

/// What two vectors a and b have in common.
struct PairProducts {
  double dot = 0.0;     ///< a.b
  double norm_a = 0.0;  ///< a.a
  double norm_b = 0.0;  ///< b.b
};

/// Of `count` elements of float16, bfloat16, float32 or float64, accumulated in double in an order
/// that depends on the instruction set. No alignment is required.
PairProducts pair_products(const std::byte* a, const std::byte* b, std::int64_t count,
                           DataType dtype);

/// a[i] = weight_a * a[i] + weight_b * b[i], computed in double and rounded at the end (16-bit
/// floats by way of float32); the same bits whatever the instruction set. dtypes as above.
void weighted_sum(std::byte* a, double weight_a, const std::byte* b, double weight_b,
                  std::int64_t count, DataType dtype);

}  // namespace scalecom::kernels
