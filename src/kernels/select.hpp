#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "scalecom/tensor.hpp"

/// The numeric passes of one ScaleCom step over one tensor (Chen et al., NeurIPS 2020, arXiv
/// 2104.11125, algorithm 1), in the order of their calls:
///
///   select_and_sweep   by the leader of these chunks: finds the offsets
///   gather_and_sweep   by the others, once they have them
///   fill_selected      the reduced values, and zero elsewhere
///   restore_selected, undo_sweep   back to the m before, where the tensor has to go dense
///
/// Vocabulary: C chunk length, k = ceil(count / C), m residual, g gradient, p = m + g. A selected
/// element is named by its offset in its chunk; the last chunk may be short. A tensor may be swept
/// in parts that begin at a chunk. All arithmetic is float32 without contraction, but for the
/// selected elements, which are computed in float64; so every SIMD target gives the same bits.
///
/// Both sweeps read g = prescale * gradient and m and write m, 12 bytes an element for float32:
///
///   elsewhere    m <- m + beta g, where p is finite; else m keeps its value, so that it never
///                takes in NaN or Inf
///   selected     sent = p rounded to the values' dtype, and m <- (1-beta) m + beta (p - sent):
///                what rounding takes away stays in the residual, and without rounding m becomes
///                exactly zero at beta = 1
namespace scalecom::kernels {

/// A gradient as the passes read it: prescale * data[i], float32, float16 or bfloat16. No alignment
/// is required.
struct Gradient {
  const std::byte* data = nullptr;
  DataType dtype = DataType::float32;
  std::int64_t count = 0;
  float prescale = 1.0f;
  friend bool operator==(const Gradient&, const Gradient&) = default;
};

/// What a sweep takes out of k chunks.
struct Selected {
  std::byte* values = nullptr;         ///< sent, k of `dtype`, without alignment
  DataType dtype = DataType::float32;  ///< float32, float16 or bfloat16
  /// Greatest |sent|. A larger p is sent in several steps, as its rest stays in the residual: a sum
  /// of 16-bit values must not overflow.
  float limit = std::numeric_limits<float>::infinity();
  float* kept = nullptr;  ///< k of m + beta g, for restore_selected()
  friend bool operator==(const Selected&, const Selected&) = default;
};

/// offsets[j] <- place in chunk j of its largest |p| (lowest place on ties; NaN counts as larger
/// than Inf, and of several NaN any one may be chosen). `residual` has gradient.count elements,
/// `chunk` is 1 to 65,536, `offsets` has k elements. Returns the number of elements with p not
/// finite.
std::int64_t select_and_sweep(float* residual, const Gradient& gradient, float beta,
                              std::int64_t chunk, std::uint16_t* offsets, const Selected& selected);

/// The same for given offsets, which lie inside of their chunks.
std::int64_t gather_and_sweep(float* residual, const Gradient& gradient, float beta,
                              std::int64_t chunk, const std::uint16_t* offsets,
                              const Selected& selected);

/// Takes the step on the selected coordinates back: m[i] <- kept[j] on those of `count` elements.
void restore_selected(float* residual, std::int64_t count, std::int64_t chunk,
                      const std::uint16_t* offsets, const float* kept);

/// Takes the rest of a sweep back, after restore_selected(): m <- m - beta g where the sweep
/// changed it. The difference to the m before is the rounding of m + beta g.
void undo_sweep(float* residual, const Gradient& gradient, float beta);

/// values[j] <- source[j], `count` values of float32, float16 or bfloat16.
void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count);

/// result[i] = values[j] on the selected coordinate i of chunk j, rounded to nearest even, and zero
/// elsewhere. `result` has `count` elements of `dtype` (float32, float16 or bfloat16), and is part
/// of `together` bytes that are written one after the other: many go past the caches.
void fill_selected(std::byte* result, DataType dtype, std::int64_t count, std::int64_t chunk,
                   const std::uint16_t* offsets, const float* values, std::int64_t together = 0);

}  // namespace scalecom::kernels
