#pragma once

#include <cstdint>
#include <span>

#include "device/cuda/stream.hpp"
#include "kernels/cuda/step_rows.hpp"
#include "kernels/cuda/table.hpp"
#include "kernels/select.hpp"

/// The passes of kernels/select.hpp for tensors in CUDA memory: the same definitions and the same
/// bits (of a NaN: some NaN, and all of them tie), for a table of tensors in one launch on a
/// stream. No call waits for the device.
namespace scalecom::kernels::cuda {

/// One tensor and what its step writes. All pointers are device memory, aligned to their elements;
/// what a pass does not use may be null. `selected.values` is aligned to its dtype.
struct StepTensor {
  float* memory = nullptr;
  Gradient gradient;
  float beta = 1.0f;
  std::int64_t chunk = 1;
  std::uint16_t* offsets = nullptr;
  Selected selected;
  /// The sweeps add the number of elements with p not finite.
  std::int64_t* nonfinite = nullptr;
  /// Result and reduced values of fill_selected() and scatter_selected(): `result` has
  /// gradient.count elements of gradient.dtype, and may be the gradient.
  std::byte* result = nullptr;
  const float* reduced = nullptr;
};

/// What a sweep leaves in the gradient: 4 more bytes an element for zeros, so that the result can
/// be there after scatter_selected().
enum class GradientAfter { unchanged, zero };

/// The tensors of a batch on the device, for all passes of a step. Empty tensors are allowed.
/// Chunks beyond kWarpChunkMax take a second launch in each pass.
class StepTable {
 public:
  /// For up to `tensors_max` tensors at a time.
  explicit StepTable(std::size_t tensors_max);

  /// Replaces the tensors; the copy to the device is enqueued on `stream`. All that was enqueued
  /// with the former ones must be done.
  void assign(std::span<const StepTensor> tensors, device::cuda::StreamHandle stream);

  void select_and_sweep(GradientAfter gradient, device::cuda::StreamHandle stream) const;
  void gather_and_sweep(GradientAfter gradient, device::cuda::StreamHandle stream) const;
  void restore_selected(device::cuda::StreamHandle stream) const;
  void undo_sweep(device::cuda::StreamHandle stream) const;
  void fill_selected(device::cuda::StreamHandle stream) const;
  /// fill_selected() where the zeros are there already: 2 % of the work, or less.
  void scatter_selected(device::cuda::StreamHandle stream) const;

 private:
  StagedTable storage_;
  std::size_t tensors_max_;
  RowRange by_warps_;
  RowRange by_blocks_;
  RowRange by_selected_;
  RowRange by_elements_;

  void launch(Pass pass, device::cuda::StreamHandle stream) const;
  void launch(SelectedPass pass, device::cuda::StreamHandle stream) const;
};

/// values[j] <- source[j], `count` values of float32, float16 or bfloat16.
void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count,
           device::cuda::StreamHandle stream);

}  // namespace scalecom::kernels::cuda
