#pragma once

#include <cstddef>
#include <cstdint>

#include "scalecom/tensor.hpp"

/// The numeric passes of one ScaleCom step over one tensor (Chen et al., NeurIPS 2020, arXiv
/// 2104.11125, algorithm 1), in the order of their calls:
///
///   sweep or sweep_and_select   g = prescale * gradient, p = m + g, m <- m + beta g; 12 bytes an
///                               element for float32 (read g, read m, write m)
///   gather_selected             p on the selected coordinates, m <- (1-beta) m there
///   fill_selected               the reduced values, and zero elsewhere
///   restore_selected, undo_sweep   back to the m before, where the tensor has to go dense
///
/// Vocabulary: C chunk length, k = ceil(count / C), m residual, g gradient, p = m + g. A selected
/// element is named by its offset in its chunk; the last chunk may be short. All arithmetic is
/// float32 without contraction, so every SIMD target gives the same bits.
namespace scalecom::kernels {

/// A gradient as the passes read it: prescale * data[i], float32, float16 or bfloat16. No alignment
/// is required.
struct Gradient {
  const std::byte* data = nullptr;
  DataType dtype = DataType::float32;
  std::int64_t count = 0;
  float prescale = 1.0f;
};

/// m <- m + beta g where p is finite; elsewhere m keeps its value, so that it never takes in NaN or
/// Inf. `memory` has gradient.count elements. Returns the number of elements with p not finite.
std::int64_t sweep(float* memory, const Gradient& gradient, float beta);

/// The same, and offsets[j] = place in chunk j of its largest |p| (lowest place on ties; NaN counts
/// as larger than Inf). `chunk` is 1 to 65,536; `offsets` has k elements.
std::int64_t sweep_and_select(float* memory, const Gradient& gradient, float beta,
                              std::int64_t chunk, std::uint16_t* offsets);

/// After a sweep, for each chunk j and its selected coordinate i: kept[j] = m[i],
/// values[j] = p = m[i] + (1-beta) g and m[i] <- (1-beta) (m[i] - beta g), which is exactly zero at
/// beta = 1. `values` and `kept` have k elements.
void gather_selected(float* memory, const Gradient& gradient, float beta, std::int64_t chunk,
                     const std::uint16_t* offsets, float* values, float* kept);

/// Takes gather_selected() back: m[i] <- kept[j] on the selected coordinates of `count` elements.
void restore_selected(float* memory, std::int64_t count, std::int64_t chunk,
                      const std::uint16_t* offsets, const float* kept);

/// Takes sweep() back: m <- m - beta g where the sweep changed it. The difference to the m before
/// is the rounding of m + beta g.
void undo_sweep(float* memory, const Gradient& gradient, float beta);

/// result[i] = values[j] on the selected coordinate i of chunk j, rounded to nearest even, and zero
/// elsewhere. `result` has `count` elements of `dtype` (float32, float16 or bfloat16).
void fill_selected(std::byte* result, DataType dtype, std::int64_t count, std::int64_t chunk,
                   const std::uint16_t* offsets, const float* values);

}  // namespace scalecom::kernels
