#include "kernels/cuda/convert.hpp"

#include <cuda_runtime_api.h>

#include "kernels/cuda/formats.cuh"
#include "kernels/cuda/load.cuh"

namespace scalecom::kernels::cuda {
namespace {

using device::cuda::StreamHandle;

constexpr int kLanes = 256;

template <class Format>
struct Widened {
  using From = typename Format::Element;
  using To = float;
  static __device__ To of(From value) { return Format::widen(value); }
};

template <class Out, class In>
struct Cast {
  using From = In;
  using To = Out;
  static __device__ To of(From value) { return static_cast<To>(value); }
};

template <class Conversion>
__global__ __launch_bounds__(kLanes) void run_convert(typename Conversion::To* to,
                                                      const typename Conversion::From* from,
                                                      std::int64_t count) {
  const std::int64_t i = blockIdx.x * std::int64_t{kLanes} + threadIdx.x;
  if (i < count) to[i] = Conversion::of(from[i]);
}

unsigned blocks_for(std::int64_t count) {
  return static_cast<unsigned>((count + kLanes - 1) / kLanes);
}

template <class Conversion>
int convert(void* to, const void* from, std::int64_t count, StreamHandle stream) {
  run_convert<Conversion><<<blocks_for(count), kLanes, 0, stream>>>(
      static_cast<typename Conversion::To*>(to),
      static_cast<const typename Conversion::From*>(from), count);
  return cudaGetLastError();
}

template <class Format>
__global__ __launch_bounds__(kLanes) void run_mark(typename Format::Element* marks,
                                                   std::int64_t* counts, std::int64_t count) {
  const std::int64_t i = blockIdx.x * std::int64_t{kLanes} + threadIdx.x;
  if (i >= count) return;
  const std::int64_t found = counts[i];
  marks[i] = Format::narrow(found > 0 ? 1.0f : 0.0f);
  if (found != 0) counts[i] = 0;
}

template <class Format>
int mark(std::byte* marks, std::int64_t* counts, std::int64_t count, StreamHandle stream) {
  run_mark<Format><<<blocks_for(count), kLanes, 0, stream>>>(
      reinterpret_cast<typename Format::Element*>(marks), counts, count);
  return cudaGetLastError();
}

template <class Wire>
__global__ __launch_bounds__(kLanes) void run_unpack(std::uint16_t* offsets, const Wire* wire,
                                                     std::int64_t count, std::int64_t first) {
  const std::int64_t i = blockIdx.x * std::int64_t{kLanes} + threadIdx.x;
  if (i >= count) return;
  const std::int64_t place = i + first;
  offsets[place < count ? place : place - count] = wire[i];
}

template <class Wire>
int unpack(std::uint16_t* offsets, const std::byte* wire, std::int64_t count, std::int64_t first,
           StreamHandle stream) {
  run_unpack<Wire><<<blocks_for(count), kLanes, 0, stream>>>(
      offsets, reinterpret_cast<const Wire*>(wire), count, first);
  return cudaGetLastError();
}

/// Few blocks: nearly always nothing is found, and then nothing is written.
constexpr std::int64_t kCountBlocksMax = 1024;

template <class Format>
__global__ __launch_bounds__(kLanes) void run_count_nonfinite(
    unsigned long long* found, const typename Format::Element* values, std::int64_t count) {
  unsigned long long own = 0;
  const std::int64_t step = std::int64_t{gridDim.x} * kLanes;
  for (std::int64_t i = blockIdx.x * std::int64_t{kLanes} + threadIdx.x; i < count; i += step) {
    own += absolute_bits(Format::widen(values[i])) > kLargestFinite ? 1 : 0;
  }
  if (own > 0) atomicAdd(found, own);
}

template <class Format>
int count_nonfinite(std::int64_t* found, const std::byte* values, std::int64_t count,
                    StreamHandle stream) {
  const std::int64_t blocks = (count + kLanes - 1) / kLanes;
  run_count_nonfinite<Format>
      <<<static_cast<unsigned>(blocks < kCountBlocksMax ? blocks : kCountBlocksMax), kLanes, 0,
         stream>>>(reinterpret_cast<unsigned long long*>(found),
                   reinterpret_cast<const typename Format::Element*>(values), count);
  return cudaGetLastError();
}

}  // namespace

int load_conversions() {
  return load(run_convert<Widened<Float32>>, run_convert<Widened<Float16>>,
              run_convert<Widened<Bfloat16>>, run_convert<Cast<std::uint8_t, std::uint16_t>>,
              run_convert<Cast<std::uint16_t, std::uint16_t>>, run_mark<Float32>, run_mark<Float16>,
              run_mark<Bfloat16>, run_unpack<std::uint8_t>, run_unpack<std::uint16_t>,
              run_count_nonfinite<Float32>, run_count_nonfinite<Float16>,
              run_count_nonfinite<Bfloat16>);
}

int launch_count_nonfinite(std::int64_t* found, const std::byte* values, ElementFormat format,
                           std::int64_t count, StreamHandle stream) {
  switch (format) {
    case ElementFormat::float16: return count_nonfinite<Float16>(found, values, count, stream);
    case ElementFormat::bfloat16: return count_nonfinite<Bfloat16>(found, values, count, stream);
    default: return count_nonfinite<Float32>(found, values, count, stream);
  }
}

int launch_widen(float* values, const std::byte* source, ElementFormat format, std::int64_t count,
                 StreamHandle stream) {
  switch (format) {
    case ElementFormat::float16: return convert<Widened<Float16>>(values, source, count, stream);
    case ElementFormat::bfloat16: return convert<Widened<Bfloat16>>(values, source, count, stream);
    default: return convert<Widened<Float32>>(values, source, count, stream);
  }
}

int launch_mark(std::byte* marks, ElementFormat format, std::int64_t* counts, std::int64_t count,
                StreamHandle stream) {
  switch (format) {
    case ElementFormat::float16: return mark<Float16>(marks, counts, count, stream);
    case ElementFormat::bfloat16: return mark<Bfloat16>(marks, counts, count, stream);
    default: return mark<Float32>(marks, counts, count, stream);
  }
}

int launch_pack_offsets(std::byte* wire, std::int64_t wire_bytes, const std::uint16_t* offsets,
                        std::int64_t count, StreamHandle stream) {
  if (wire_bytes == 1) {
    return convert<Cast<std::uint8_t, std::uint16_t>>(wire, offsets, count, stream);
  }
  return convert<Cast<std::uint16_t, std::uint16_t>>(wire, offsets, count, stream);
}

int launch_unpack_offsets(std::uint16_t* offsets, const std::byte* wire, std::int64_t wire_bytes,
                          std::int64_t count, std::int64_t first, StreamHandle stream) {
  return wire_bytes == 1 ? unpack<std::uint8_t>(offsets, wire, count, first, stream)
                         : unpack<std::uint16_t>(offsets, wire, count, first, stream);
}

}  // namespace scalecom::kernels::cuda
