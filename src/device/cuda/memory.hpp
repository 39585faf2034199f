#pragma once

#include <cstddef>
#include <memory>
#include <vector>

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

/// Throw Error(unavailable) when there is no device, and OutOfMemory where it has not that much.
DeviceMemory allocate_device(std::size_t bytes);
PinnedMemory allocate_pinned(std::size_t bytes);

/// Gives a pool's memory back in the order of the stream, which must still be there.
struct FreeInOrder {
  StreamHandle stream = nullptr;
  void operator()(std::byte* memory) const noexcept;
};

/// Memory in the order of streams. What was given back is kept for the next allocations. Outlives
/// its memory. Any thread.
class MemoryPool {
 public:
  static bool is_supported(int device);
  /// Needs is_supported().
  explicit MemoryPool(int device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// For FreeInOrder, of this stream or one that waits for it; null when empty. What is enqueued on
  /// `stream` from now on may use it. Throws like allocate_device().
  std::byte* allocate(std::size_t bytes, StreamHandle stream);

  /// See Accelerator. CUDA does not give back what the host has not seen to be free: it looks at
  /// `streams`, in whose order memory was given back.
  void give_back_kept(const std::vector<StreamHandle>& streams) noexcept;
  void limit_kept() noexcept;

 private:
  CUmemPoolHandle_st* pool_ = nullptr;
};

}  // namespace scalecom::device::cuda
