#include <fmt/format.h>
#include <hwy/cache_control.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.hpp"
#include "kernels/select.hpp"
// For the target of the compiler's own flags alone: these passes are bound by memory.
#include "kernels/cpu/vector_inl.hpp"

namespace scalecom::kernels {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using HWY_NAMESPACE::Bfloat16Vectors;
using HWY_NAMESPACE::Float16Vectors;

using Floats = hn::ScalableTag<float>;
using Bytes = hn::CappedTag<std::uint8_t, 16>;

/// Stays in the first-level cache beside offsets and values.
constexpr std::size_t kBlockBytes = 4096;
/// Results of this size and more are written past the caches: they would not stay there, and the
/// lines that are written need not be read first.
constexpr std::size_t kStreamedBytes = std::size_t{4} << 20;

std::int64_t selected_of(std::int64_t count, std::int64_t chunk) {
  SCALECOM_ASSERT(chunk >= 1 && chunk <= 65536, fmt::format("chunk length {}", chunk));
  return (count + chunk - 1) / chunk;
}

template <class Vectors>
void widen_all(float* values, const std::byte* source, std::size_t count) {
  const Floats d;
  std::size_t j = 0;
  for (; j + hn::Lanes(d) <= count; j += hn::Lanes(d)) {
    hn::StoreU(Vectors::load(d, source, j), d, values + j);
  }
  for (; j < count; ++j) values[j] = Vectors::load(source, j);
}

/// `destination` is a multiple of the vector length, `block` too.
void stream(std::byte* destination, const std::byte* block, std::size_t bytes) {
  const Bytes d;
  const std::size_t whole = bytes / hn::Lanes(d) * hn::Lanes(d);
  for (std::size_t i = 0; i < whole; i += hn::Lanes(d)) {
    hn::Stream(hn::Load(d, reinterpret_cast<const std::uint8_t*>(block + i)), d,
               reinterpret_cast<std::uint8_t*>(destination + i));
  }
  std::memcpy(destination + whole, block + whole, bytes - whole);
}

/// The result takes shape in a block of zeros, which is copied out and cleared again.
template <class Format>
void fill(std::byte* result, std::int64_t count, std::int64_t chunk, const std::uint16_t* offsets,
          const float* values) {
  alignas(64) std::array<std::byte, kBlockBytes> block{};
  constexpr auto kBlock = static_cast<std::int64_t>(kBlockBytes / Format::kBytes);
  const std::int64_t selected = selected_of(count, chunk);
  const std::size_t misalignment = reinterpret_cast<std::uintptr_t>(result) % 64;
  const bool is_streamed = static_cast<std::size_t>(count) * Format::kBytes >= kStreamedBytes &&
                           misalignment % Format::kBytes == 0;
  // The first block is shorter, so that the others start at a cache line.
  std::int64_t end =
      is_streamed ? kBlock - static_cast<std::int64_t>(misalignment / Format::kBytes) : kBlock;
  std::int64_t j = 0;
  for (std::int64_t begin = 0; begin < count; begin = end, end += kBlock) {
    end = std::min(end, count);
    const std::int64_t first = j;
    for (; j < selected && j * chunk + offsets[j] < end; ++j) {
      Format::store(block.data(), static_cast<std::size_t>(j * chunk + offsets[j] - begin),
                    values[j]);
    }
    const std::size_t bytes = static_cast<std::size_t>(end - begin) * Format::kBytes;
    std::byte* const destination = result + static_cast<std::size_t>(begin) * Format::kBytes;
    if (is_streamed && begin > 0) {
      stream(destination, block.data(), bytes);
    } else {
      std::memcpy(destination, block.data(), bytes);
    }
    for (std::int64_t i = first; i < j; ++i) {
      Format::store(block.data(), static_cast<std::size_t>(i * chunk + offsets[i] - begin), 0.0f);
    }
  }
  SCALECOM_ASSERT(j == selected,
                  fmt::format("offset {} in chunk {} of {} elements", offsets[j], j, count));
  if (is_streamed) hwy::FlushStream();
}

}  // namespace

void restore_selected(float* memory, std::int64_t count, std::int64_t chunk,
                      const std::uint16_t* offsets, const float* kept) {
  const std::int64_t selected = selected_of(count, chunk);
  for (std::int64_t j = 0; j < selected; ++j) memory[j * chunk + offsets[j]] = kept[j];
}

void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count) {
  const auto size = static_cast<std::size_t>(count);
  switch (dtype) {
    case DataType::float16: return widen_all<Float16Vectors>(values, source, size);
    case DataType::bfloat16: return widen_all<Bfloat16Vectors>(values, source, size);
    default: std::memcpy(values, source, size * sizeof(float));
  }
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
