#include "kernels/cuda/convert.hpp"

#include <cuda_runtime_api.h>

#include "kernels/cuda/formats.cuh"

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

template <class Format>
struct Marked {
  using From = std::int64_t;
  using To = typename Format::Element;
  static __device__ To of(From count) { return Format::narrow(count > 0 ? 1.0f : 0.0f); }
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

template <class Conversion>
int launch(void* to, const void* from, std::int64_t count, StreamHandle stream) {
  const auto blocks = static_cast<unsigned>((count + kLanes - 1) / kLanes);
  run_convert<Conversion>
      <<<blocks, kLanes, 0, stream>>>(static_cast<typename Conversion::To*>(to),
                                      static_cast<const typename Conversion::From*>(from), count);
  return cudaGetLastError();
}

/// With the conversion of that name for the format's elements.
template <template <class> class Conversion>
int launch(ElementFormat format, void* to, const void* from, std::int64_t count,
           StreamHandle stream) {
  switch (format) {
    case ElementFormat::float16: return launch<Conversion<Float16>>(to, from, count, stream);
    case ElementFormat::bfloat16: return launch<Conversion<Bfloat16>>(to, from, count, stream);
    default: return launch<Conversion<Float32>>(to, from, count, stream);
  }
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
  return launch<Widened>(format, values, source, count, stream);
}

int launch_mark(std::byte* marks, ElementFormat format, const std::int64_t* counts,
                std::int64_t count, StreamHandle stream) {
  return launch<Marked>(format, marks, counts, count, stream);
}

int launch_narrow_offsets(std::uint8_t* narrow, const std::uint16_t* offsets, std::int64_t count,
                          StreamHandle stream) {
  return launch<Cast<std::uint8_t, std::uint16_t>>(narrow, offsets, count, stream);
}

int launch_widen_offsets(std::uint16_t* offsets, const std::uint8_t* narrow, std::int64_t count,
                         StreamHandle stream) {
  return launch<Cast<std::uint16_t, std::uint8_t>>(offsets, narrow, count, stream);
}

}  // namespace scalecom::kernels::cuda
