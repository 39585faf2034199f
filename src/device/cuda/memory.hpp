#pragma once

#include <cstddef>
#include <memory>

#include "device/cuda/stream.hpp"

// CUDA's own name behind cudaMemPool_t.
struct CUmemPoolHandle_st;

namespace scalecom::device::cuda {

/// Frees with cudaFree, which waits for the device.
struct FreeDevice {
  void operator()(std::byte* memory) const noexcept;
};
struct FreePinned {
  void operator()(std::byte* memory) const noexcept;
};

/// Memory of the current device, 256-byte aligned; null when empty.
using DeviceMemory = std::unique_ptr<std::byte, FreeDevice>;
/// Host memory that the device copies from and to by itself.
using PinnedMemory = std::unique_ptr<std::byte, FreePinned>;

/// Throw Error(unavailable) when there is no device, or not that much memory.
DeviceMemory allocate_device(std::size_t bytes);
PinnedMemory allocate_pinned(std::size_t bytes);

struct FreeInOrder {
  StreamHandle stream = nullptr;
  void operator()(std::byte* memory) const noexcept;
};
/// Given back in the order of the stream, which must still be there.
using OrderedMemory = std::unique_ptr<std::byte, FreeInOrder>;

/// Memory in the order of streams. What was given back is kept for the next allocations. Outlives
/// its memory.
class MemoryPool {
 public:
  static bool is_supported(int device);
  /// Needs is_supported().
  explicit MemoryPool(int device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// Throws like allocate_device().
  OrderedMemory allocate(std::size_t bytes, StreamHandle stream);

 private:
  CUmemPoolHandle_st* pool_ = nullptr;
};

}  // namespace scalecom::device::cuda
