#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "device/cuda/stream.hpp"
#include "kernels/accelerator.hpp"
#include "kernels/cuda/step_rows.hpp"
#include "kernels/cuda/unit_index.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom::kernels::cuda {

/// What a table is given: `bytes` of each.
struct TableMemory {
  std::size_t bytes = 0;
  AcceleratorMemory pinned;
  AcceleratorMemory device;
};

/// A launch's table: written in pinned host memory, copied to the device in the stream's order.
class StagedTable {
 public:
  explicit StagedTable(TableMemory memory) : memory_(std::move(memory)) {}

  /// What is reserved begins at a multiple of it: a line of the device's cache.
  static constexpr std::size_t kAlignment = 128;

  /// Host memory for `count` values behind those reserved since clear().
  template <class T>
  std::span<T> reserve(std::size_t count) {
    return {reinterpret_cast<T*>(memory_.pinned.get() + take(count * sizeof(T))), count};
  }
  /// Where reserved values will be on the device.
  template <class T>
  const T* on_device(std::span<T> values) const {
    return reinterpret_cast<const T*>(
        memory_.device.get() +
        (reinterpret_cast<std::byte*>(values.data()) - memory_.pinned.get()));
  }
  void clear() noexcept { used_ = 0; }
  void upload(device::cuda::StreamHandle stream) const;

 private:
  TableMemory memory_;
  std::size_t used_ = 0;

  std::size_t take(std::size_t bytes);
};

/// float32, float16 or bfloat16.
ElementFormat format_of(DataType dtype);

/// Reserves and fills the index of rows that have `units` units each, at least one row.
UnitIndex make_index(StagedTable& table, std::span<const std::int64_t> units);

/// What make_index() takes of a table for up to `rows` rows.
constexpr std::size_t index_bytes(std::size_t rows) {
  return (rows + rows / 16 + kLevels) * sizeof(std::int32_t) + kLevels * StagedTable::kAlignment;
}

}  // namespace scalecom::kernels::cuda
