#pragma once

#include <cstdint>

#include "device/cuda/stream.hpp"
#include "kernels/cuda/unit_index.hpp"

/// What the launching code hands to the step's kernels: plain data, C++17.
namespace scalecom::kernels::cuda {

enum class ElementFormat : std::int32_t { float32, float16, bfloat16 };

/// One tensor. Pointers are device memory. In one line of the cache, so that a warp gets it at
/// once.
struct alignas(128) StepRow {
  float* residual;
  const void* gradient;
  void* result;
  std::int64_t count;
  std::uint16_t* offsets;
  void* values;
  float* kept;
  const float* reduced;
  const float* mark;
  unsigned long long* nonfinite;
  float prescale;
  float beta;
  float limit;
  std::int32_t chunk;
  ElementFormat format;  ///< of gradient and result
  ElementFormat value_format;
  std::int32_t lanes_log2;
  double chunk_inverse;  ///< 1 / chunk
};

/// Some rows, and whose units are whose.
struct RowRange {
  const StepRow* rows = nullptr;
  UnitIndex index;
};

enum class Pass : std::int32_t { select, gather };

/// Loads the kernels of all below; returns a cudaError_t.
int load_step();
// Each launches on a range that has units, and returns a cudaError_t. A unit is what a warp does,
// or for launch_by_blocks() a block; layout.hpp has their sizes.
int launch_by_warps(Pass pass, const RowRange& range, device::cuda::StreamHandle stream);
int launch_by_blocks(Pass pass, const RowRange& range, device::cuda::StreamHandle stream);
int launch_take_back(const RowRange& range, device::cuda::StreamHandle stream);
int launch_fill(const RowRange& range, device::cuda::StreamHandle stream);

}  // namespace scalecom::kernels::cuda
