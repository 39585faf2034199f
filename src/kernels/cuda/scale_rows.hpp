#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda/stream.hpp"
#include "kernels/cuda/scale_element.hpp"
#include "kernels/cuda/unit_index.hpp"

/// What the launching code hands to scale_copy()'s kernel: plain data, C++17.
namespace scalecom::kernels::cuda {

/// As what a tensor is scaled; `none` is copied only.
enum class CopyFormat : std::int32_t {
  none,
  float32,
  float16,
  bfloat16,
  float64,
  uint8,
  int8,
  int16,
  int32,
  int64,
};

/// One tensor. Pointers are device memory.
struct CopyRow {
  std::byte* destination;
  const std::byte* source;
  std::int64_t bytes;
  CopyFormat format;
  Scaling scaling;
};

struct CopyRange {
  const CopyRow* rows = nullptr;
  UnitIndex index;
};

/// What a warp copies at a time, in vectors of 16 bytes.
inline constexpr std::int32_t kCopyVectorsALane = 4;
inline constexpr std::int32_t kCopyVectorsAUnit = 32 * kCopyVectorsALane;
inline constexpr int kCopyWarpsABlock = 8;

/// plain: the source's words of 4 bytes are aligned, and the scaling is no ScaleStep::in_double, as
/// that of float64 and integers always is.
/// What others need takes registers, so these have a launch of their own.
enum class CopyKind : std::int32_t { plain, other };

/// Loads its kernels; returns a cudaError_t.
int load_scale_copy();
/// Returns a cudaError_t.
int launch_scale_copy(CopyKind kind, const CopyRange& range, device::cuda::StreamHandle stream);

}  // namespace scalecom::kernels::cuda
