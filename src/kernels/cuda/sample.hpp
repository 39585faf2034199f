#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "kernels/accelerator.hpp"
#include "kernels/cuda/sample_rows.hpp"
#include "kernels/cuda/table.hpp"

namespace scalecom::kernels::cuda {

/// A look at sampled chunks in one launch, a block a tensor. The elements' p are the CPU's to the
/// bit; the figures may differ from the CPU's in the last bit, as they are sums in another order.
class CudaSampleTable final : public SampleTable {
 public:
  /// `memory` has bytes_for().
  explicit CudaSampleTable(TableMemory memory) : storage_(std::move(memory)) {}
  static std::size_t bytes_for(std::size_t tensors_max, std::size_t chunks_max);

  void assign(std::span<const SampledTensor> tensors, StreamHandle stream) override;
  void look(StreamHandle stream) const override;

 private:
  StagedTable storage_;
  const SampleRow* rows_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace scalecom::kernels::cuda
