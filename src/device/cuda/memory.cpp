#include "device/cuda/memory.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "device/cuda/error.hpp"

namespace scalecom::device::cuda {

void FreeDevice::operator()(std::byte* memory) const noexcept { cudaFree(memory); }
void FreePinned::operator()(std::byte* memory) const noexcept { cudaFreeHost(memory); }

DeviceMemory allocate_device(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), fmt::format("cudaMalloc of {} bytes", bytes).c_str());
  return DeviceMemory(static_cast<std::byte*>(memory));
}

PinnedMemory allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), fmt::format("cudaMallocHost of {} bytes", bytes).c_str());
  return PinnedMemory(static_cast<std::byte*>(memory));
}

}  // namespace scalecom::device::cuda
