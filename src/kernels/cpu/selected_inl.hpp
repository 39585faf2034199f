// Included once for each SIMD target (see foreach_target.h of Highway), hence without a guard.

#include <fmt/format.h>
#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/selected.hpp"
#include "kernels/cpu/vector_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace scalecom::kernels::HWY_NAMESPACE {

template <class Vectors>
void widen_all(float* values, const std::byte* source, std::size_t count) {
  const hn::ScalableTag<float> d;
  std::size_t j = 0;
  for (; j + hn::Lanes(d) <= count; j += hn::Lanes(d)) {
    hn::StoreU(Vectors::load(d, source, j), d, values + j);
  }
  for (; j < count; ++j) values[j] = Vectors::load(source, j);
}

/// Both start at a multiple of the vector length.
HWY_INLINE void stream(std::byte* destination, const std::byte* block, std::size_t bytes) {
  const hn::ScalableTag<std::uint8_t> d;
  const std::size_t whole = bytes / hn::Lanes(d) * hn::Lanes(d);
  for (std::size_t i = 0; i < whole; i += hn::Lanes(d)) {
    hn::Stream(hn::Load(d, reinterpret_cast<const std::uint8_t*>(block + i)), d,
               reinterpret_cast<std::uint8_t*>(destination + i));
  }
  std::memcpy(destination + whole, block + whole, bytes - whole);
}

/// The result takes shape in a block of zeros, which is copied out and cleared again.
template <class Format>
void fill(const FillArguments& arguments) {
  const auto& [result, dtype, count, chunk, selected, offsets, values, may_stream] = arguments;
  alignas(kBlockAlignment) std::byte block[kBlockBytes] = {};
  constexpr auto kBlock = static_cast<std::int64_t>(kBlockBytes / Format::kBytes);
  const std::size_t misalignment = reinterpret_cast<std::uintptr_t>(result) % kBlockAlignment;
  const bool is_streamed = may_stream && misalignment % Format::kBytes == 0;
  // The first block is shorter, so that the others start at a cache line.
  std::int64_t end =
      is_streamed ? kBlock - static_cast<std::int64_t>(misalignment / Format::kBytes) : kBlock;
  std::int64_t j = 0;
  for (std::int64_t begin = 0; begin < count; begin = end, end += kBlock) {
    end = std::min(end, count);
    const std::int64_t first = j;
    for (; j < selected && j * chunk + offsets[j] < end; ++j) {
      Format::store(block, static_cast<std::size_t>(j * chunk + offsets[j] - begin), values[j]);
    }
    const std::size_t bytes = static_cast<std::size_t>(end - begin) * Format::kBytes;
    std::byte* const destination = result + static_cast<std::size_t>(begin) * Format::kBytes;
    if (is_streamed && begin > 0) {
      stream(destination, block, bytes);
    } else {
      std::memcpy(destination, block, bytes);
    }
    for (std::int64_t i = first; i < j; ++i) {
      Format::store(block, static_cast<std::size_t>(i * chunk + offsets[i] - begin), 0.0f);
    }
  }
  SCALECOM_ASSERT(j == selected,
                  fmt::format("offset {} in chunk {} of {} elements", offsets[j], j, count));
  if (is_streamed) hwy::FlushStream();
}

void run_widen(float* values, const std::byte* source, DataType dtype, std::size_t count) {
  switch (dtype) {
    case DataType::float16: return widen_all<Float16Vectors>(values, source, count);
    case DataType::bfloat16: return widen_all<Bfloat16Vectors>(values, source, count);
    default: std::memcpy(values, source, count * sizeof(float));
  }
}

void run_fill(const FillArguments& arguments) {
  switch (arguments.dtype) {
    case DataType::float16: return fill<Float16Format>(arguments);
    case DataType::bfloat16: return fill<Bfloat16Format>(arguments);
    default: return fill<Float32Format>(arguments);
  }
}

}  // namespace scalecom::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
