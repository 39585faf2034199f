#include "device/cuda/memory.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <string>

#include "device/cuda/error.hpp"

namespace scalecom::device::cuda {

void FreeDevice::operator()(std::byte* memory) const noexcept {
  const BesideCaptures beside;
  cudaFree(memory);
}
void FreePinned::operator()(std::byte* memory) const noexcept {
  const BesideCaptures beside;
  cudaFreeHost(memory);
}

namespace {

/// "call of 1024 bytes", and of a device that has not that many how many are free.
void check_allocation(cudaError_t error, const char* call, std::size_t bytes) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  std::size_t free = 0;
  std::size_t total = 0;
  const bool is_known =
      error == cudaErrorMemoryAllocation && cudaMemGetInfo(&free, &total) == cudaSuccess;
  const std::string rest =
      is_known ? fmt::format(" ({} of the device's {} are free)", free, total) : "";
  check(error, fmt::format("{} of {} bytes{}", call, bytes, rest).c_str());
}

}  // namespace

void FreeInOrder::operator()(std::byte* memory) const noexcept { cudaFreeAsync(memory, stream); }

DeviceMemory allocate_device(std::size_t bytes) {
  const BesideCaptures beside;
  void* memory = nullptr;
  check_allocation(cudaMalloc(&memory, bytes), "cudaMalloc", bytes);
  return DeviceMemory(static_cast<std::byte*>(memory));
}

PinnedMemory allocate_pinned(std::size_t bytes) {
  const BesideCaptures beside;
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), fmt::format("cudaMallocHost of {} bytes", bytes).c_str());
  return PinnedMemory(static_cast<std::byte*>(memory));
}

bool MemoryPool::is_supported(int device) {
  int supported = 0;
  check(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device),
        "cudaDeviceGetAttribute");
  return supported != 0;
}

MemoryPool::MemoryPool(int device) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;  // memory that does not move
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  check(cudaMemPoolCreate(&pool_, &properties), "cudaMemPoolCreate");
  auto kept = std::numeric_limits<std::uint64_t>::max();
  check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &kept),
        "cudaMemPoolSetAttribute");
}

MemoryPool::~MemoryPool() { cudaMemPoolDestroy(pool_); }

OrderedMemory MemoryPool::allocate(std::size_t bytes, StreamHandle stream) {
  void* memory = nullptr;
  if (bytes > 0) {
    const BesideCaptures beside;
    cudaError_t error = cudaMallocFromPoolAsync(&memory, bytes, pool_, stream);
    if (error == cudaErrorMemoryAllocation) {
      // What the pool keeps may be in pieces of other sizes.
      cudaGetLastError();
      cudaMemPoolTrimTo(pool_, 0);
      error = cudaMallocFromPoolAsync(&memory, bytes, pool_, stream);
    }
    check_allocation(error, "cudaMallocFromPoolAsync", bytes);
  }
  return OrderedMemory(static_cast<std::byte*>(memory), FreeInOrder{stream});
}

}  // namespace scalecom::device::cuda
