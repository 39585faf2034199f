#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "device/cuda/stream.hpp"
#include "kernels/cuda/scale_rows.hpp"
#include "kernels/cuda/table.hpp"
#include "kernels/reduce.hpp"

namespace scalecom::kernels::cuda {

/// destination[i] = source[i] * scale in CUDA memory. float32, float16 and bfloat16, aligned to
/// their elements; with the identity scale every dtype, without alignment.
struct CopyTensor {
  std::byte* destination = nullptr;
  const std::byte* source = nullptr;
  std::int64_t count = 0;
  DataType dtype = DataType::float32;
  Scale scale;
};

/// The tensors of a batch and their places in a fused buffer: one launch packs or unpacks
/// them. Those that are not aligned to 4 bytes, or are scaled by two odd numbers, take a second
/// one.
class CopyTable {
 public:
  /// For up to `tensors_max` tensors at a time.
  explicit CopyTable(std::size_t tensors_max);

  /// Replaces the tensors; the copy to the device is enqueued on `stream`. All that was enqueued
  /// with the former ones must be done.
  void assign(std::span<const CopyTensor> tensors, device::cuda::StreamHandle stream);

  /// The results of kernels/reduce.hpp's scale_copy, to the bit. Does not wait for the device.
  void scale_copy(device::cuda::StreamHandle stream) const;

 private:
  StagedTable storage_;
  std::size_t tensors_max_;
  std::array<CopyRange, 2> ranges_;  ///< by CopyKind
};

}  // namespace scalecom::kernels::cuda
