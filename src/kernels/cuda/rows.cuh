#pragma once

#include <cstdint>

#include "kernels/cuda/unit_index.hpp"

// How a warp gets its row of a table, in as few accesses that wait for each other as can be.
namespace scalecom::kernels::cuda {

inline constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

/// The pointer, known to the compiler as one to global memory: pointers out of a table could point
/// anywhere, and such accesses cost more.
template <class T>
__device__ T* global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

/// A row, and the number of one of its units.
struct Found {
  std::int32_t row = 0;
  std::int32_t unit = 0;
};

/// All lanes of a warp call it with the same unit, and look at 32 places of a level at a time.
__device__ inline Found find_row(const UnitIndex& index, std::int32_t unit) {
  Found found{0, unit};
  if (index.sizes[0] == 1) return found;
#pragma unroll
  for (int level = kLevels - 1; level >= 0; --level) {
    if (level >= index.levels_used) continue;
    const std::int32_t place = found.row * kFanOut + static_cast<std::int32_t>(threadIdx.x % 32);
    const std::int32_t first = place < index.sizes[level] ? index.levels[level][place] : 0x7FFFFFFF;
    const int last = __popc(__ballot_sync(kWholeWarp, first <= unit)) - 1;
    found.row = found.row * kFanOut + last;
    if (level == 0) found.unit = unit - __shfl_sync(kWholeWarp, first, last);
  }
  return found;
}

/// Has the launch's first blocks bring a line of the table into the cache each, while they look up
/// their own rows: else each row would come from memory as its first unit waits for it.
template <class Row>
__device__ void prefetch_table(const Row* rows, const UnitIndex& index) {
  constexpr std::int64_t kLine = 128;
  const std::int64_t line = blockIdx.x * kLine;
  const void* place = nullptr;
  if (threadIdx.x == 0 && line < index.sizes[0] * std::int64_t{sizeof(Row)}) {
    place = reinterpret_cast<const char*>(rows) + line;
  } else if (threadIdx.x == 1 && line < index.sizes[0] * std::int64_t{sizeof(std::int32_t)}) {
    place = reinterpret_cast<const char*>(index.levels[0]) + line;
  }
  if (place != nullptr) asm volatile("prefetch.global.L2 [%0];" ::"l"(place));
}

/// Copies a row into the warp's own place in shared memory with one access; its fields cost little
/// from there.
template <class Row>
__device__ const Row& load_row(Row& place, const Row* row) {
  constexpr int kWords = sizeof(Row) / sizeof(unsigned);
  static_assert(sizeof(Row) % sizeof(unsigned) == 0 && kWords <= 32, "a word for each lane");
  const unsigned lane = threadIdx.x % 32;
  if (lane < kWords) {
    reinterpret_cast<unsigned*>(&place)[lane] = reinterpret_cast<const unsigned*>(row)[lane];
  }
  __syncwarp();
  return place;
}

}  // namespace scalecom::kernels::cuda
