#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/accelerator.hpp"
#include "kernels/cuda/scale_rows.hpp"
#include "kernels/cuda/table.hpp"

namespace scalecom::kernels::cuda {

/// Packs or unpacks in one launch, with the results of kernels/reduce.hpp's scale_copy to the bit.
/// Tensors that are not aligned to 4 bytes, or are scaled in float64, take a second one.
class CudaCopyTable final : public CopyTable {
 public:
  /// `memory` has bytes_for(tensors_max).
  CudaCopyTable(std::size_t tensors_max, TableMemory memory);
  static std::size_t bytes_for(std::size_t tensors_max);

  /// Nothing is done where the tensors are the former ones.
  void assign(std::span<const CopyTensor> tensors, StreamHandle stream) override;
  void scale_copy(StreamHandle stream) const override;

 private:
  StagedTable storage_;
  std::size_t tensors_max_;
  std::vector<CopyTensor> assigned_;
  std::vector<std::int64_t> units_;  ///< of rows, while an index is made
  std::array<CopyRange, 2> ranges_;  ///< by CopyKind

  void write_rows(std::span<const CopyTensor> tensors);
};

}  // namespace scalecom::kernels::cuda
