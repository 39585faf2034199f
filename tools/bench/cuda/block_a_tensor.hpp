#pragma once

#include <cstdint>

#include "device/cuda/stream.hpp"

namespace scalecom::bench {

/// A run of bytes, both pointers multiples of 16.
struct PlainCopy {
  void* destination;
  const void* source;
  std::int64_t bytes;
};

/// Copies a table in the shape of Horovod's batched copy, for comparison: a block of 1,024 threads
/// for each tensor, however large it is. `copies` is device memory.
void copy_block_a_tensor(const PlainCopy* copies, int count, device::cuda::StreamHandle stream);

}  // namespace scalecom::bench
