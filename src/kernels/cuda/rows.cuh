#pragma once

#include <cstdint>

// How a warp finds its row in a table (rows in order, with the number of each row's first unit),
// and what it finds there.
namespace scalecom::kernels::cuda {

inline constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

/// The pointer, known to the compiler as one to global memory: pointers out of a table could point
/// anywhere, and such accesses cost more.
template <class T>
__device__ T* global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

/// The row that holds `unit`: the last whose first unit is not beyond it. All lanes of a warp call
/// it with the same arguments, and look at 32 rows at a time.
__device__ inline std::int32_t find_row(const std::int64_t* first_units, std::int32_t rows,
                                        std::int64_t unit) {
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  std::int32_t first = 0;
  std::int32_t left = rows;
  while (left > 1) {
    const std::int32_t step = (left + 31) / 32;
    const std::int32_t place = lane * step;
    const bool is_before = place < left && first_units[first + place] <= unit;
    const std::int32_t last = __popc(__ballot_sync(kWholeWarp, is_before)) - 1;
    first += last * step;
    left = min(step, left - last * step);
  }
  return first;
}

}  // namespace scalecom::kernels::cuda
