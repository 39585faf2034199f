#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/accelerator.hpp"
#include "kernels/cuda/step_rows.hpp"
#include "kernels/cuda/table.hpp"

namespace scalecom::kernels::cuda {

/// The passes of kernels/select.hpp in CUDA memory: the same definitions and the same bits (of a
/// NaN: some NaN, and all of them tie), for a table of tensors in one launch. Chunks beyond
/// kWarpChunkMax take a second launch in a sweep.
class CudaStepTable final : public StepTable {
 public:
  /// `memory` has bytes_for(tensors_max).
  CudaStepTable(std::size_t tensors_max, TableMemory memory);
  static std::size_t bytes_for(std::size_t tensors_max);

  /// Nothing is done where the tensors are the former ones.
  void assign(std::span<const StepTensor> tensors, StreamHandle stream) override;
  using StepTable::gather_and_sweep;
  using StepTable::select_and_sweep;
  void select_and_sweep(StreamHandle stream, TensorRange led) const override;
  void gather_and_sweep(StreamHandle stream, TensorRange led) const override;
  void take_back(StreamHandle stream) const override;
  void fill_selected(StreamHandle stream) const override;

 private:
  StagedTable storage_;
  std::size_t tensors_max_;
  std::vector<StepTensor> assigned_;
  std::vector<std::int64_t> units_;  ///< of rows, while an index is made
  /// Rows for one kind of team, and of each tensor how many units are before it; of one more, all.
  struct TeamRows {
    RowRange range;
    std::vector<std::int32_t> units_before;
  };
  TeamRows by_warps_;
  TeamRows by_blocks_;
  RowRange by_elements_;

  void write_rows(std::span<const StepTensor> tensors);
  void count_units(std::span<const StepTensor> tensors);
  void sweep(Pass pass, TensorRange led, StreamHandle stream) const;
};

}  // namespace scalecom::kernels::cuda
