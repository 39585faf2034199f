#include <fmt/format.h>
#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "kernels/cpu/half.hpp"
#include "kernels/select.hpp"

namespace scalecom::kernels {
namespace {

// Selected elements lie a chunk apart, so every one is a cache miss that can be announced early.
constexpr std::int64_t kPrefetchDistance = 16;

std::int64_t selected_of(std::int64_t count, std::int64_t chunk) {
  SCALECOM_ASSERT(chunk >= 1 && chunk <= 65536, fmt::format("chunk length {}", chunk));
  return (count + chunk - 1) / chunk;
}

template <class Format>
void gather(float* memory, const Gradient& gradient, float beta, std::int64_t chunk,
            const std::uint16_t* offsets, float* values, float* kept) {
  const std::int64_t selected = selected_of(gradient.count, chunk);
  const double rest = 1.0 - static_cast<double>(beta);
  for (std::int64_t j = 0; j < selected; ++j) {
    if (j + kPrefetchDistance < selected) {
      const std::int64_t ahead = (j + kPrefetchDistance) * chunk + offsets[j + kPrefetchDistance];
      hwy::Prefetch(memory + ahead);
      hwy::Prefetch(gradient.data + ahead * static_cast<std::int64_t>(Format::kBytes));
    }
    const std::int64_t i = j * chunk + offsets[j];
    SCALECOM_ASSERT(i < gradient.count, fmt::format("offset {} in chunk {} of {} elements",
                                                    offsets[j], j, gradient.count));
    const float m = memory[i];
    const float g = gradient.prescale * Format::load(gradient.data, static_cast<std::size_t>(i));
    kept[j] = m;
    // In float64, so that only the sweep's own rounding is left.
    const double m_before = static_cast<double>(m) - static_cast<double>(beta) * g;
    values[j] = static_cast<float>(static_cast<double>(m) + rest * g);
    memory[i] = beta == 1.0f ? 0.0f : static_cast<float>(rest * m_before);
  }
}

template <class Format>
void fill(std::byte* result, std::int64_t count, std::int64_t chunk, const std::uint16_t* offsets,
          const float* values) {
  // Blocks that stay in the first-level cache between the two passes.
  constexpr std::int64_t kBlockBytes = 16384;
  constexpr auto kBytes = static_cast<std::int64_t>(Format::kBytes);
  const std::int64_t selected = selected_of(count, chunk);
  const std::int64_t block = std::max<std::int64_t>(1, kBlockBytes / kBytes / chunk);
  for (std::int64_t first = 0; first < selected; first += block) {
    const std::int64_t end = std::min(first + block, selected);
    const std::int64_t begin_element = first * chunk;
    const std::int64_t end_element = std::min(end * chunk, count);
    std::memset(result + begin_element * kBytes, 0,
                static_cast<std::size_t>((end_element - begin_element) * kBytes));
    for (std::int64_t j = first; j < end; ++j) {
      const std::int64_t i = j * chunk + offsets[j];
      SCALECOM_ASSERT(i < count,
                      fmt::format("offset {} in chunk {} of {} elements", offsets[j], j, count));
      Format::store(result, static_cast<std::size_t>(i), values[j]);
    }
  }
}

}  // namespace

void gather_selected(float* memory, const Gradient& gradient, float beta, std::int64_t chunk,
                     const std::uint16_t* offsets, float* values, float* kept) {
  switch (gradient.dtype) {
    case DataType::float16:
      return gather<Float16Format>(memory, gradient, beta, chunk, offsets, values, kept);
    case DataType::bfloat16:
      return gather<Bfloat16Format>(memory, gradient, beta, chunk, offsets, values, kept);
    default: return gather<Float32Format>(memory, gradient, beta, chunk, offsets, values, kept);
  }
}

void restore_selected(float* memory, std::int64_t count, std::int64_t chunk,
                      const std::uint16_t* offsets, const float* kept) {
  const std::int64_t selected = selected_of(count, chunk);
  for (std::int64_t j = 0; j < selected; ++j) memory[j * chunk + offsets[j]] = kept[j];
}

void fill_selected(std::byte* result, DataType dtype, std::int64_t count, std::int64_t chunk,
                   const std::uint16_t* offsets, const float* values) {
  switch (dtype) {
    case DataType::float16: return fill<Float16Format>(result, count, chunk, offsets, values);
    case DataType::bfloat16: return fill<Bfloat16Format>(result, count, chunk, offsets, values);
    default: return fill<Float32Format>(result, count, chunk, offsets, values);
  }
}

}  // namespace scalecom::kernels
