#pragma once

#include <cstdint>

#include "device/cuda/stream.hpp"
#include "kernels/cuda/step_rows.hpp"

/// What the launching code hands to the sample's kernel: plain data, C++17.
namespace scalecom::kernels::cuda {

/// SampledChunk.
struct SampleChunkRow {
  const float* residual;
  const void* gradient;
  const std::uint16_t* offset;
  const float* kept;
};

/// SampledTensor. Pointers are device memory.
struct SampleRow {
  const SampleChunkRow* chunks;
  float* compensated;
  float* figures;
  std::uint16_t* offsets;
  float prescale;
  float beta;
  std::int32_t chunk;
  std::int32_t chunks_used;
  std::int32_t elements;
  ElementFormat format;
};

/// Loads its kernel; returns a cudaError_t.
int load_look();
/// For `rows_used` > 0; returns a cudaError_t.
int launch_look(const SampleRow* rows, std::int32_t rows_used, device::cuda::StreamHandle stream);

}  // namespace scalecom::kernels::cuda
