#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/cuda/memory.hpp"
#include "device/cuda/stream.hpp"

namespace scalecom::kernels::cuda {

/// A launch's table: written in pinned host memory, copied to the device in the stream's order.
class StagedTable {
 public:
  explicit StagedTable(std::size_t bytes);

  /// Host memory for `count` values behind those reserved since clear(); aligned for all types.
  template <class T>
  std::span<T> reserve(std::size_t count) {
    return {reinterpret_cast<T*>(staging_.get() + take(count * sizeof(T))), count};
  }
  /// Where reserved values will be on the device.
  template <class T>
  const T* on_device(std::span<T> values) const {
    return reinterpret_cast<const T*>(
        device_.get() + (reinterpret_cast<std::byte*>(values.data()) - staging_.get()));
  }
  void clear() noexcept { used_ = 0; }
  void upload(device::cuda::StreamHandle stream) const;

 private:
  std::size_t bytes_;
  std::size_t used_ = 0;
  device::cuda::PinnedMemory staging_;
  device::cuda::DeviceMemory device_;

  std::size_t take(std::size_t bytes);
};

/// Units that a block works on, one team after the other: several save looking for the row, but
/// leave the device fewer blocks to spread over its `multiprocessors`.
constexpr std::int64_t units_a_block(std::int64_t units, int teams, int multiprocessors) {
  constexpr std::int64_t kRoundsMax = 4;
  constexpr std::int64_t kBlocksWanted = 64;  // for each multiprocessor
  const std::int64_t rounds = units / (kBlocksWanted * multiprocessors * teams);
  return teams * (rounds < 1 ? 1 : rounds > kRoundsMax ? kRoundsMax : rounds);
}

}  // namespace scalecom::kernels::cuda
