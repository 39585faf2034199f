#pragma once

#include <cstdint>
#include <vector>

#include "scalecom/device.hpp"
#include "scalecom/export.hpp"

namespace scalecom {

/// Element type. The values are part of the C ABI.
enum class DataType : std::int32_t {
  uint8 = 0,
  int8 = 1,
  int16 = 2,
  int32 = 3,
  int64 = 4,
  float16 = 5,
  float32 = 6,
  float64 = 7,
  boolean = 8,
  bfloat16 = 9,
};

/// Bytes of one element.
SCALECOM_API std::int64_t size_of(DataType dtype) noexcept;
/// "float32", "bool", ...
SCALECOM_API const char* to_string(DataType dtype) noexcept;

/// How values of the ranks are combined. The values are Horovod's and part of the C ABI. adasum
/// (docs/algorithms.md) is an all-reduce of floating-point tensors in host memory only.
enum class ReduceOp : std::int32_t {
  average = 0,
  sum = 1,
  adasum = 2,
  min = 3,
  max = 4,
  product = 5
};

SCALECOM_API const char* to_string(ReduceOp op) noexcept;

/// Extents, slowest first; empty for a scalar.
using Shape = std::vector<std::int64_t>;

/// Number of elements of `shape`: the product of its extents, 1 for a scalar.
SCALECOM_API std::int64_t count_of(const Shape& shape) noexcept;

/// A borrowed, contiguous, row-major tensor. Whoever submits it keeps the memory alive and
/// untouched until the ticket completes; on a CUDA device, in the order of a stream that has been
/// made to wait for the ticket.
struct TensorView {
  void* data = nullptr;
  DataType dtype = DataType::float32;
  Shape shape;
  Device device;
  /// On a CUDA device: the cudaStream_t in whose order the memory is used, before the operation and
  /// after it; null is the default stream. It is one of that device, and there until the ticket
  /// completes.
  void* stream = nullptr;

  std::int64_t count() const noexcept { return count_of(shape); }
  std::int64_t bytes() const noexcept { return count() * size_of(dtype); }
};

}  // namespace scalecom
