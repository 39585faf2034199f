#include <cuda_runtime_api.h>

#include "kernels/cuda/formats.cuh"
#include "kernels/cuda/load.cuh"
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

__device__ std::int32_t lane() { return static_cast<std::int32_t>(threadIdx.x % kLanes); }

/// 16 bytes from where only shorter words are aligned.
template <class Word>
__device__ uint4 load_words(const std::byte* source) {
  constexpr int kPieces = 4 / sizeof(Word);
  const Word* const words = reinterpret_cast<const Word*>(source);
  unsigned result[4] = {};
#pragma unroll
  for (int i = 0; i < 4 * kPieces; ++i) {
    result[i / kPieces] |= static_cast<unsigned>(words[i]) << (i % kPieces * 8 * sizeof(Word) % 32);
  }
  return make_uint4(result[0], result[1], result[2], result[3]);
}

/// Calls body(number among the lane's vectors, its place in the unit) for those that are whole.
template <class Body>
__device__ void for_each_whole(const CopyUnit& unit, const Body& body) {
#pragma unroll
  for (int i = 0; i < kCopyVectorsALane; ++i) {
    const std::int32_t vector = lane() + i * kLanes;
    if (unit.is_whole(vector)) body(i, vector * CopyLayout::kVectorBytes);
  }
}

/// `source` is of the unit's begin, and `shift` bytes behind a multiple of 16.
template <CopyKind kKind>
__device__ void load_batch(Batch& batch, const std::byte* source, std::int32_t shift,
                           const CopyUnit& unit) {
  if (shift == 0) {
    for_each_whole(unit, [&](int i, std::int32_t place) {
      batch[i] = *reinterpret_cast<const uint4*>(source + place);
    });
  } else if (kKind == CopyKind::plain || shift % 4 == 0) {
    for_each_whole(
        unit, [&](int i, std::int32_t place) { batch[i] = load_words<unsigned>(source + place); });
  } else if (shift % 2 == 0) {
    for_each_whole(unit, [&](int i, std::int32_t place) {
      batch[i] = load_words<std::uint16_t>(source + place);
    });
  } else {
    for_each_whole(unit, [&](int i, std::int32_t place) {
      batch[i] = load_words<std::uint8_t>(source + place);
    });
  }
}

template <class Format, ScaleStep kStep>
__device__ unsigned scaled_word(unsigned word, const Scaling& scaling) {
  if constexpr (sizeof(typename Format::Element) == sizeof(float)) {
    return __float_as_uint(scale_element<kStep, true>(__uint_as_float(word), scaling));
  } else {
    const auto half = [&](unsigned bits) -> unsigned {
      return Format::narrow(
          scale_element<kStep, false>(Format::widen(static_cast<std::uint16_t>(bits)), scaling));
    };
    return half(word & 0xFFFFu) | half(word >> 16) << 16;
  }
}

template <class Format, ScaleStep kStep>
__device__ void scale_batch(Batch& batch, const Scaling& scaling) {
#pragma unroll
  for (uint4& vector : batch) {
    vector = make_uint4(scaled_word<Format, kStep>(vector.x, scaling),
                        scaled_word<Format, kStep>(vector.y, scaling),
                        scaled_word<Format, kStep>(vector.z, scaling),
                        scaled_word<Format, kStep>(vector.w, scaling));
  }
}

/// Elements that are scaled in float64 as they are.
template <class T>
struct InDouble {
  using Element = T;
};

template <CopyKind kKind, class T>
__device__ void scale_batch(Batch& batch, const Scaling& scaling, InDouble<T>) {
#pragma unroll
  for (uint4& vector : batch) {
    T elements[sizeof(uint4) / sizeof(T)];
    memcpy(elements, &vector, sizeof(vector));
#pragma unroll
    for (T& element : elements) element = scale_in_double(element, scaling);
    memcpy(&vector, elements, sizeof(vector));
  }
}

template <CopyKind kKind, class Format>
__device__ void scale_batch(Batch& batch, const Scaling& scaling, Format) {
  switch (scaling.step) {
    case ScaleStep::copy: return;
    case ScaleStep::multiply_in_float:
      return scale_batch<Format, ScaleStep::multiply_in_float>(batch, scaling);
    case ScaleStep::divide_in_float:
      return scale_batch<Format, ScaleStep::divide_in_float>(batch, scaling);
    case ScaleStep::in_double:
      if constexpr (kKind == CopyKind::other) {
        scale_batch<Format, ScaleStep::in_double>(batch, scaling);
      }
  }
}

template <class T>
__device__ T scaled_element(T element, const Scaling& scaling, InDouble<T>) {
  return scale_in_double(element, scaling);
}

template <class Format>
__device__ typename Format::Element scaled_element(typename Format::Element element,
                                                   const Scaling& scaling, Format) {
  constexpr bool kIsWide = sizeof(element) == sizeof(float);
  const float value = Format::widen(element);
  switch (scaling.step) {
    case ScaleStep::multiply_in_float:
      return Format::narrow(scale_element<ScaleStep::multiply_in_float, kIsWide>(value, scaling));
    case ScaleStep::divide_in_float:
      return Format::narrow(scale_element<ScaleStep::divide_in_float, kIsWide>(value, scaling));
    default: return Format::narrow(scale_element<ScaleStep::in_double, kIsWide>(value, scaling));
  }
}

/// Calls body with the format, if it is scaled at all.
template <CopyKind kKind, class Body>
__device__ void with_copy_format(CopyFormat format, const Body& body) {
  switch (format) {
    case CopyFormat::none: return;
    case CopyFormat::float32: return body(Float32());
    case CopyFormat::float16: return body(Float16());
    case CopyFormat::bfloat16: return body(Bfloat16());
    default: break;
  }
  if constexpr (kKind == CopyKind::other) {
    switch (format) {
      case CopyFormat::float64: return body(InDouble<double>());
      case CopyFormat::uint8: return body(InDouble<std::uint8_t>());
      case CopyFormat::int8: return body(InDouble<std::int8_t>());
      case CopyFormat::int16: return body(InDouble<std::int16_t>());
      case CopyFormat::int32: return body(InDouble<std::int32_t>());
      default: return body(InDouble<std::int64_t>());
    }
  }
}

/// The part of an outer vector that belongs to the run, element by element.
template <CopyKind kKind>
__device__ void copy_part(const CopyRow& row, const CopyUnit& unit, std::int32_t vector) {
  const std::int32_t place = vector * CopyLayout::kVectorBytes;
  const std::int64_t begin = unit.begin + max(place, unit.first);
  const std::int64_t end = unit.begin + min(place + CopyLayout::kVectorBytes, unit.end);
  if (row.format == CopyFormat::none) {
#pragma unroll 1
    for (std::int64_t i = begin; i < end; ++i) {
      global(row.destination)[i] = global(row.source)[i];
    }
    return;
  }
  with_copy_format<kKind>(row.format, [&](auto format) {
    using Element = typename decltype(format)::Element;
    constexpr std::int64_t kBytes = sizeof(Element);
    const auto* const source = global(reinterpret_cast<const Element*>(row.source));
    auto* const destination = global(reinterpret_cast<Element*>(row.destination));
#pragma unroll 1
    for (std::int64_t i = begin / kBytes; i < end / kBytes; ++i) {
      destination[i] = scaled_element(source[i], row.scaling, format);
    }
  });
}

template <CopyKind kKind>
__device__ void copy_unit(const CopyRow& row, std::int64_t number) {
  std::byte* destination = global(row.destination);
  const std::byte* source = global(row.source);
  const CopyLayout layout{
      static_cast<std::int32_t>(reinterpret_cast<std::uint64_t>(destination) % 16), row.bytes};
  const std::int32_t shift = layout.source_shift(reinterpret_cast<std::uint64_t>(source));
  const CopyUnit unit(layout, number, kCopyVectorsAUnit);
  Batch batch;
  load_batch<kKind>(batch, source + unit.begin, shift, unit);
  if (row.format != CopyFormat::none) {
    const Scaling scaling = row.scaling;
    with_copy_format<kKind>(row.format,
                            [&](auto format) { scale_batch<kKind>(batch, scaling, format); });
  }
  destination += unit.begin;
  for_each_whole(unit, [&](int i, std::int32_t place) {
    *reinterpret_cast<uint4*>(destination + place) = batch[i];
  });
  if (unit.has_only_whole()) return;
#pragma unroll 1
  for (std::int32_t vector = lane(); vector < kCopyVectorsAUnit; vector += kLanes) {
    if (unit.is_part(vector)) copy_part<kKind>(row, unit, vector);
  }
}

template <CopyKind kKind>
__global__ __launch_bounds__(kBlockThreads) void run_scale_copy(
    const __grid_constant__ CopyRange range) {
  __shared__ CopyRow rows[kCopyWarpsABlock];
  prefetch_table(range.rows, range.index);
  const auto warp = static_cast<int>(threadIdx.x) / kLanes;
  const auto unit = static_cast<std::int32_t>(blockIdx.x) * kCopyWarpsABlock + warp;
  if (unit >= range.index.units) return;
  const Found found = find_row(range.index, unit);
  copy_unit<kKind>(load_row(rows[warp], range.rows + found.row), found.unit);
}

}  // namespace

int load_scale_copy() {
  return load(run_scale_copy<CopyKind::plain>, run_scale_copy<CopyKind::other>);
}

int launch_scale_copy(CopyKind kind, const CopyRange& range, device::cuda::StreamHandle stream) {
  const auto blocks = static_cast<unsigned>((range.index.units - 1) / kCopyWarpsABlock + 1);
  if (kind == CopyKind::plain) {
    run_scale_copy<CopyKind::plain><<<blocks, kBlockThreads, 0, stream>>>(range);
  } else {
    run_scale_copy<CopyKind::other><<<blocks, kBlockThreads, 0, stream>>>(range);
  }
  return cudaGetLastError();
}

}  // namespace scalecom::kernels::cuda
