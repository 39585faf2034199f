#pragma once

#include <cstddef>
#include <cstdint>

#include "scalecom/tensor.hpp"

namespace scalecom::kernels {

/// destination[i] = a[i] op b[i] for `count` elements of `dtype`. `destination` may be `a` or `b`;
/// other overlaps are not allowed. No alignment is required. float16 and bfloat16 are computed in
/// float32 and rounded to nearest even. min and max return NaN if either is NaN. boolean: sum and
/// max are "or", min and product are "and". `op` is neither average nor adasum.
void reduce(std::byte* destination, const std::byte* a, const std::byte* b, std::int64_t count,
            DataType dtype, ReduceOp op);

/// value * multiply / divide, computed in double (float32, float16, bfloat16 and integers) and
/// rounded once; integers truncate. With divide an integer, float32 results equal float division.
struct Scale {
  double multiply = 1.0;
  double divide = 1.0;
  bool is_identity() const noexcept { return multiply == 1.0 && divide == 1.0; }
  friend bool operator==(const Scale&, const Scale&) = default;
};

/// destination[i] = source[i] * scale; the same memory is allowed, other overlaps are not. An
/// identity scale is a plain copy. boolean accepts the identity only.
void scale_copy(std::byte* destination, const std::byte* source, std::int64_t count, DataType dtype,
                Scale scale);

/// Instruction set chosen at run time for this machine: "AVX3", "AVX2", ...
const char* simd_target() noexcept;

}  // namespace scalecom::kernels
