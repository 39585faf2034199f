#pragma once

#include "kernels/reduce.hpp"
#include "runtime/negotiation.hpp"

namespace scalecom {

/// What a tensor's values are multiplied by on the way into a reduction, and its results on the way
/// out, where an average is divided as well.
inline kernels::Scale input_scale(const TensorSignature& signature) noexcept {
  return {signature.prescale, 1.0};
}
inline kernels::Scale output_scale(const TensorSignature& signature, int size) noexcept {
  return {signature.postscale, signature.op == ReduceOp::average ? static_cast<double>(size) : 1.0};
}

}  // namespace scalecom
