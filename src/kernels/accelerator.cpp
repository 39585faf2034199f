#include "kernels/accelerator.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "base/out_of_memory.hpp"

namespace scalecom {
namespace {

bool is_aligned(const void* pointer, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

bool is_floating(DataType dtype) {
  return dtype == DataType::float32 || dtype == DataType::float16 || dtype == DataType::bfloat16;
}

}  // namespace

AcceleratorMemory Accelerator::allocate(std::size_t bytes) {
  try {
    return take(bytes);
  } catch (const OutOfMemory&) {
    give_back_kept();
  }
  return take(bytes);
}

AcceleratorMemory Accelerator::allocate(std::size_t bytes, MemoryOrder order) {
  try {
    return take(bytes, order);
  } catch (const OutOfMemory&) {
    give_back_kept();
  }
  return take(bytes, order);
}

void check(const StepTensor& tensor) {
  const kernels::Gradient& gradient = tensor.gradient;
  SCALECOM_ASSERT(tensor.chunk >= 1 && tensor.chunk <= 65536,
                  fmt::format("chunk length {}", tensor.chunk));
  SCALECOM_ASSERT(gradient.count >= 0, fmt::format("{} elements", gradient.count));
  SCALECOM_ASSERT(is_floating(gradient.dtype) && is_floating(tensor.selected.dtype),
                  fmt::format("a step of {} with values of {}", to_string(gradient.dtype),
                              to_string(tensor.selected.dtype)));
  SCALECOM_ASSERT(is_aligned(gradient.data, size_of(gradient.dtype)) &&
                      is_aligned(tensor.result, size_of(gradient.dtype)) &&
                      is_aligned(tensor.residual, sizeof(float)) &&
                      is_aligned(tensor.selected.values, size_of(tensor.selected.dtype)),
                  fmt::format("a tensor of {} {} that is not aligned to its elements",
                              gradient.count, to_string(gradient.dtype)));
}

void check(const SampledTensor& tensor) {
  const auto chunks = static_cast<std::int64_t>(tensor.chunks.size());
  SCALECOM_ASSERT(tensor.chunk >= 1 && tensor.elements > (chunks - 1) * tensor.chunk &&
                      tensor.elements <= chunks * tensor.chunk && is_floating(tensor.dtype),
                  fmt::format("a sample of {} {} in {} chunks of {}", tensor.elements,
                              to_string(tensor.dtype), chunks, tensor.chunk));
}

void check(const CopyTensor& tensor) {
  SCALECOM_ASSERT(tensor.count >= 0, fmt::format("{} elements", tensor.count));
  SCALECOM_ASSERT(
      tensor.scale.is_identity() || tensor.dtype != DataType::boolean,
      fmt::format("booleans times {} / {}", tensor.scale.multiply, tensor.scale.divide));
  SCALECOM_ASSERT(is_aligned(tensor.destination, size_of(tensor.dtype)) &&
                      is_aligned(tensor.source, size_of(tensor.dtype)),
                  fmt::format("{} {} that are not aligned to their elements", tensor.count,
                              to_string(tensor.dtype)));
}

}  // namespace scalecom
