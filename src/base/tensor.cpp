#include "scalecom/tensor.hpp"

#include "scalecom/compression.hpp"

namespace scalecom {

std::int64_t size_of(DataType dtype) noexcept {
  switch (dtype) {
    case DataType::uint8:
    case DataType::int8:
    case DataType::boolean: return 1;
    case DataType::int16:
    case DataType::float16:
    case DataType::bfloat16: return 2;
    case DataType::int32:
    case DataType::float32: return 4;
    case DataType::int64:
    case DataType::float64: return 8;
  }
  return 0;
}

const char* to_string(DataType dtype) noexcept {
  switch (dtype) {
    case DataType::uint8: return "uint8";
    case DataType::int8: return "int8";
    case DataType::int16: return "int16";
    case DataType::int32: return "int32";
    case DataType::int64: return "int64";
    case DataType::float16: return "float16";
    case DataType::float32: return "float32";
    case DataType::float64: return "float64";
    case DataType::boolean: return "bool";
    case DataType::bfloat16: return "bfloat16";
  }
  return "unknown dtype";
}

const char* to_string(ReduceOp op) noexcept {
  switch (op) {
    case ReduceOp::average: return "average";
    case ReduceOp::sum: return "sum";
    case ReduceOp::adasum: return "adasum";
    case ReduceOp::min: return "min";
    case ReduceOp::max: return "max";
    case ReduceOp::product: return "product";
  }
  return "unknown op";
}

std::int64_t count_of(const Shape& shape) noexcept {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

const char* to_string(CompressionMode mode) noexcept {
  switch (mode) {
    case CompressionMode::none: return "dense";
    case CompressionMode::cyclic: return "cyclic";
    case CompressionMode::sharded: return "sharded";
    case CompressionMode::by_setting: return "by setting";
    case CompressionMode::hierarchical: return "hierarchical";
    case CompressionMode::automatic: return "auto";
  }
  return "unknown";
}

}  // namespace scalecom
