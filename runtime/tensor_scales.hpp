#pragma once

#include <cmath>
#include <limits>

#include "kernels/reduce.hpp"
#include "runtime/negotiation.hpp"

namespace scalecom {

/// A factor as elements of `dtype` take it: those of 32 bits and fewer in float32, as with Horovod,
/// since programs compare with products of their own.
inline double factor_for(DataType dtype, double factor) noexcept {
  const bool is_short =
      dtype == DataType::float32 || dtype == DataType::float16 || dtype == DataType::bfloat16;
  const bool fits = std::abs(factor) <= std::numeric_limits<float>::max();
  return is_short && fits ? static_cast<float>(factor) : factor;
}

/// What a tensor's values are multiplied by on the way into a reduction, and its results on the way
/// out, where an average is divided as well.
inline kernels::Scale input_scale(const TensorSignature& signature) noexcept {
  return {factor_for(signature.dtype, signature.prescale), 1.0};
}
inline kernels::Scale output_scale(const TensorSignature& signature, int size) noexcept {
  return {factor_for(signature.dtype, signature.postscale),
          signature.op == ReduceOp::average ? static_cast<double>(size) : 1.0};
}

}  // namespace scalecom
