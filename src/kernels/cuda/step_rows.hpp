#pragma once

#include <cstdint>

#include "device/cuda/stream.hpp"

/// What the launching code hands to the step's kernels: plain data, C++17.
namespace scalecom::kernels::cuda {

enum class ElementFormat : std::int32_t { float32, float16, bfloat16 };

/// One tensor. Pointers are device memory.
struct StepRow {
  float* memory;
  void* gradient;
  void* result;
  std::int64_t count;
  std::uint16_t* offsets;
  void* values;
  float* kept;
  const float* reduced;
  unsigned long long* nonfinite;
  float prescale;
  float beta;
  float limit;
  std::int32_t chunk;
  ElementFormat format;  ///< of gradient and result
  ElementFormat value_format;
  std::int32_t lanes_log2;
};

/// Some rows, and the number of the first unit of each; first_units[rows] is the number of units.
struct RowRange {
  const StepRow* rows = nullptr;
  const std::int64_t* first_units = nullptr;
  std::int32_t count = 0;
  std::int64_t units = 0;
  std::int64_t units_a_block = 0;
};

enum class Pass : std::int32_t { select, select_and_zero, gather, gather_and_zero, undo, fill };
enum class ChunkPass : std::int32_t { restore, scatter };

// Each launches on a range that is not empty, and returns a cudaError_t. Units are of a warp, of a
// block, or kChunksAUnit chunks.
inline constexpr std::int64_t kChunksAUnit = 128;
int launch_by_warps(Pass pass, const RowRange& range, device::cuda::StreamHandle stream);
int launch_by_blocks(Pass pass, const RowRange& range, device::cuda::StreamHandle stream);
int launch_by_chunks(ChunkPass pass, const RowRange& range, device::cuda::StreamHandle stream);
int launch_widen(float* values, const void* source, ElementFormat format, std::int64_t count,
                 device::cuda::StreamHandle stream);

}  // namespace scalecom::kernels::cuda
