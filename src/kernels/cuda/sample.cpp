#include "kernels/cuda/sample.hpp"

#include <limits>

#include "base/error.hpp"
#include "device/cuda/error.hpp"

namespace scalecom::kernels::cuda {
namespace {

std::int32_t as_int32(std::int64_t value) {
  SCALECOM_ASSERT(value <= std::numeric_limits<std::int32_t>::max(), std::to_string(value));
  return static_cast<std::int32_t>(value);
}

}  // namespace

std::size_t CudaSampleTable::bytes_for(std::size_t tensors_max, std::size_t chunks_max) {
  return tensors_max * sizeof(SampleRow) + chunks_max * sizeof(SampleChunkRow) +
         2 * StagedTable::kAlignment;
}

void CudaSampleTable::assign(std::span<const SampledTensor> tensors, StreamHandle stream) {
  std::size_t all_chunks = 0;
  for (const SampledTensor& tensor : tensors) {
    check(tensor);
    all_chunks += tensor.chunks.size();
  }
  storage_.clear();
  const std::span<SampleRow> rows = storage_.reserve<SampleRow>(tensors.size());
  const std::span<SampleChunkRow> chunks = storage_.reserve<SampleChunkRow>(all_chunks);
  std::size_t place = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const SampledTensor& tensor = tensors[i];
    rows[i] = {storage_.on_device(chunks) + place,
               tensor.compensated,
               tensor.figures,
               tensor.offsets,
               tensor.prescale,
               tensor.beta,
               as_int32(tensor.chunk),
               as_int32(static_cast<std::int64_t>(tensor.chunks.size())),
               as_int32(tensor.elements),
               format_of(tensor.dtype)};
    for (const SampledChunk& chunk : tensor.chunks) {
      chunks[place++] = {chunk.residual, chunk.gradient, chunk.offset, chunk.kept};
    }
  }
  rows_ = storage_.on_device(rows);
  used_ = rows.size();
  storage_.upload(stream);
}

void CudaSampleTable::look(StreamHandle stream) const {
  if (used_ == 0) return;
  device::cuda::check(launch_look(rows_, static_cast<std::int32_t>(used_), stream),
                      "launching a look at sampled chunks");
}

}  // namespace scalecom::kernels::cuda
