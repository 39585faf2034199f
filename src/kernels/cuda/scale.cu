#include <cuda_runtime_api.h>

#include "kernels/cuda/formats.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/scale_rows.hpp"

// Copies a table of tensors, scaled or as they are. A lane loads its vectors of a unit before it
// stores the first. The destination's vectors are whole 16 bytes; the source is read in the longest
// words that its place relative to the destination allows, and the cache makes one access of them.
namespace scalecom::kernels::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kBlockThreads = kCopyWarpsABlock * kLanes;

using Batch = uint4[kCopyVectorsALane];

template <class Word>
__device__ uint4 load_words(const std::byte* source) {
  constexpr int kWords = CopyLayout::kVectorBytes / sizeof(Word);
  const Word* const words = reinterpret_cast<const Word*>(source);
  if constexpr (sizeof(Word) == 16) {
    return *words;
  } else if constexpr (sizeof(Word) == 8) {
    return make_uint4(words[0].x, words[0].y, words[1].x, words[1].y);
  } else {
    constexpr int kPieces = 4 / sizeof(Word);
    unsigned result[4] = {};
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      result[i / kPieces] |= static_cast<unsigned>(words[i]) << (i % kPieces * 8 * sizeof(Word));
    }
    return make_uint4(result[0], result[1], result[2], result[3]);
  }
}

/// Loads the whole ones of vectors first, first + 32, ...
template <class Word>
__device__ void load_batch(Batch& batch, const std::byte* source, const CopyLayout& layout,
                           std::int64_t first) {
#pragma unroll
  for (int i = 0; i < kCopyVectorsALane; ++i) {
    const std::int64_t vector = first + i * kLanes;
    if (layout.is_whole(vector)) batch[i] = load_words<Word>(source + layout.begin(vector));
  }
}

template <class Format>
__device__ unsigned scaled_word(unsigned word, const Scaling& scaling) {
  if constexpr (sizeof(typename Format::Element) == sizeof(float)) {
    return __float_as_uint(scale_element<true>(__uint_as_float(word), scaling));
  } else {
    const auto half = [&](unsigned bits) -> unsigned {
      return Format::narrow(
          scale_element<false>(Format::widen(static_cast<std::uint16_t>(bits)), scaling));
    };
    return half(word & 0xFFFFu) | half(word >> 16) << 16;
  }
}

template <class Format>
__device__ void scale_batch(Batch& batch, const Scaling& scaling) {
#pragma unroll
  for (int i = 0; i < kCopyVectorsALane; ++i) {
    batch[i] = make_uint4(
        scaled_word<Format>(batch[i].x, scaling), scaled_word<Format>(batch[i].y, scaling),
        scaled_word<Format>(batch[i].z, scaling), scaled_word<Format>(batch[i].w, scaling));
  }
}

/// The part of the first or last vector that belongs to the run, element by element.
__device__ void copy_part(const CopyRow& row, const CopyLayout& layout, std::int64_t vector) {
  const std::int64_t begin = max(layout.begin(vector), std::int64_t{0});
  const std::int64_t end = min(layout.begin(vector) + CopyLayout::kVectorBytes, row.bytes);
  if (row.scaling.step == ScaleStep::copy) {
    for (std::int64_t i = begin; i < end; ++i) row.destination[i] = row.source[i];
    return;
  }
  with_format(row.format, [&](auto format) {
    using Format = decltype(format);
    using Element = typename Format::Element;
    constexpr bool kIsWide = sizeof(Element) == sizeof(float);
    const auto* const source = reinterpret_cast<const Element*>(row.source);
    auto* const destination = reinterpret_cast<Element*>(row.destination);
    for (std::int64_t i = begin / sizeof(Element); i < end / std::int64_t{sizeof(Element)}; ++i) {
      destination[i] =
          Format::narrow(scale_element<kIsWide>(Format::widen(source[i]), row.scaling));
    }
  });
}

__device__ void copy_unit(const CopyRow& row, std::int64_t unit) {
  std::byte* const destination = global(row.destination);
  const std::byte* const source = global(row.source);
  const CopyLayout layout{
      static_cast<std::int32_t>(reinterpret_cast<std::uint64_t>(destination) % 16), row.bytes};
  const std::int64_t first = unit * kCopyVectorsAUnit + threadIdx.x % kLanes;
  Batch batch;
  // The lowest bit set is the greatest word that divides the vectors' addresses in the source.
  const auto misaligned = static_cast<int>(
      (reinterpret_cast<std::uint64_t>(source) - static_cast<std::uint64_t>(layout.shift)) % 16);
  switch (misaligned & -misaligned) {
    case 0: load_batch<uint4>(batch, source, layout, first); break;
    case 8: load_batch<uint2>(batch, source, layout, first); break;
    case 4: load_batch<unsigned>(batch, source, layout, first); break;
    case 2: load_batch<std::uint16_t>(batch, source, layout, first); break;
    default: load_batch<std::uint8_t>(batch, source, layout, first); break;
  }
  if (row.scaling.step != ScaleStep::copy) {
    const Scaling scaling = row.scaling;
    with_format(row.format, [&](auto format) { scale_batch<decltype(format)>(batch, scaling); });
  }
#pragma unroll
  for (int i = 0; i < kCopyVectorsALane; ++i) {
    const std::int64_t vector = first + i * kLanes;
    if (layout.is_whole(vector)) {
      *reinterpret_cast<uint4*>(destination + layout.begin(vector)) = batch[i];
    } else if (vector < layout.vectors()) {
      copy_part(row, layout, vector);
    }
  }
}

__global__ __launch_bounds__(kBlockThreads) void run_scale_copy(CopyRange range) {
  const std::int64_t begin = blockIdx.x * range.units_a_block;
  const std::int64_t end = min(begin + range.units_a_block, range.units);
  std::int64_t unit = begin + threadIdx.x / kLanes;
  if (unit >= end) return;
  std::int32_t index = find_row(range.first_units, range.count, unit);
  for (; unit < end; unit += kCopyWarpsABlock) {
    while (range.first_units[index + 1] <= unit) ++index;
    copy_unit(range.rows[index], unit - range.first_units[index]);
  }
}

}  // namespace

int launch_scale_copy(const CopyRange& range, device::cuda::StreamHandle stream) {
  const auto blocks =
      static_cast<unsigned>((range.units + range.units_a_block - 1) / range.units_a_block);
  run_scale_copy<<<blocks, kBlockThreads, 0, stream>>>(range);
  return cudaGetLastError();
}

}  // namespace scalecom::kernels::cuda
