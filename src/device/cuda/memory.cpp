#include "device/cuda/memory.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
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

/// Takes an error back, so that the next call does not report it again.
bool is_success(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess;
}

/// "call of 1024 bytes", and of a device that has not that many how many are free.
void check_allocation(cudaError_t error, const char* call, std::size_t bytes) {
  if (is_success(error)) return;
  std::size_t free = 0;
  std::size_t total = 0;
  const bool is_known =
      error == cudaErrorMemoryAllocation && is_success(cudaMemGetInfo(&free, &total));
  const std::string rest =
      is_known ? fmt::format(" ({} of the device's {} are free)", free, total) : "";
  check(error, fmt::format("{} of {} bytes{}", call, bytes, rest).c_str());
}

}  // namespace

void FreeInOrder::operator()(std::byte* memory) const noexcept {
  const BesideCaptures beside;
  is_success(cudaFreeAsync(memory, stream));
}

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

std::byte* MemoryPool::allocate(std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return nullptr;
  const BesideCaptures beside;
  void* memory = nullptr;
  check_allocation(cudaMallocFromPoolAsync(&memory, bytes, pool_, stream),
                   "cudaMallocFromPoolAsync", bytes);
  return static_cast<std::byte*>(memory);
}

void MemoryPool::give_back_kept(const std::vector<StreamHandle>& streams) noexcept {
  const BesideCaptures beside;
  for (const StreamHandle stream : streams) is_success(cudaStreamQuery(stream));
  is_success(cudaMemPoolTrimTo(pool_, 0));
}

// Used memory is in no multiple of the pieces that CUDA has of the device, and not one behind the
// other: with less than some more each use would take memory from the device, and give it back.
void MemoryPool::limit_kept() noexcept {
  const BesideCaptures beside;
  constexpr std::uint64_t kMore = 64 << 20;
  std::uint64_t most = 0;
  std::uint64_t used = 0;
  if (!is_success(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemHigh, &most)) ||
      !is_success(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used))) {
    return;
  }
  std::uint64_t kept = std::max(most, used);
  kept += kept / 8 + kMore;
  is_success(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &kept));
  std::uint64_t none = 0;
  is_success(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrUsedMemHigh, &none));
}

}  // namespace scalecom::device::cuda
