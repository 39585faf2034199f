#pragma once

#include <cstddef>

#include "runtime/tensor_queue.hpp"

namespace scalecom {

inline const std::byte* input_of(const PendingTensor& tensor) noexcept {
  return static_cast<const std::byte*>(tensor.input.data);
}
inline std::byte* output_of(const PendingTensor& tensor) noexcept {
  return static_cast<std::byte*>(tensor.output.data);
}

}  // namespace scalecom
