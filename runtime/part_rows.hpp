#pragma once

#include <cstdint>
#include <vector>

#include "runtime/negotiation.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// Bytes of one row: an element of the first dimension.
inline std::int64_t row_bytes(DataType dtype, const Shape& shape) {
  std::int64_t bytes = size_of(dtype);
  for (std::size_t axis = 1; axis < shape.size(); ++axis) bytes *= shape[axis];
  return bytes;
}
inline std::int64_t row_bytes(const TensorView& view) { return row_bytes(view.dtype, view.shape); }

/// What each rank gets of a reduce-scatter: as even as can be, the first ranks get one row more.
std::vector<std::int64_t> even_rows(std::int64_t rows, int size);

/// The rows that each rank gives to all ranks in an all-gather; asserts that there is one number a
/// rank.
const std::vector<std::int64_t>& gathered_rows(const AgreedTensor& agreed, int size);

/// The rows that each rank gives to `rank` in an all-to-all.
std::vector<std::int64_t> received_rows(const AgreedTensor& agreed, int rank, int size);

}  // namespace scalecom
