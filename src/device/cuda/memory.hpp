#pragma once

#include <cstddef>
#include <memory>

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

}  // namespace scalecom::device::cuda
