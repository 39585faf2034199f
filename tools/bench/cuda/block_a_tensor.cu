#include "tools/bench/cuda/block_a_tensor.hpp"

namespace scalecom::bench {
namespace {

__global__ void copy_all(const PlainCopy* copies) {
  const PlainCopy copy = copies[blockIdx.x];
  const std::int64_t vectors = copy.bytes / 16;
  for (std::int64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
    static_cast<uint4*>(copy.destination)[i] = static_cast<const uint4*>(copy.source)[i];
  }
  for (std::int64_t i = vectors * 16 + threadIdx.x; i < copy.bytes; i += blockDim.x) {
    static_cast<char*>(copy.destination)[i] = static_cast<const char*>(copy.source)[i];
  }
}

}  // namespace

void copy_block_a_tensor(const PlainCopy* copies, int count, device::cuda::StreamHandle stream) {
  copy_all<<<count, 1024, 0, stream>>>(copies);
}

}  // namespace scalecom::bench
