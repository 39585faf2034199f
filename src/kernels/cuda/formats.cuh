#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/element.hpp"
#include "kernels/cuda/step_rows.hpp"

// Element formats in device code, by the processor's own conversions: to nearest even, NaN to a
// canonical NaN.
namespace scalecom::kernels::cuda {

struct Float32 {
  using Element = float;
  using Vector = float4;
  static __device__ float widen(float value) { return value; }
  static __device__ float narrow(float value) { return value; }
  static __device__ Vector pack(float a, float b, float c, float d) {
    return make_float4(a, b, c, d);
  }
  static __device__ Quad widen_all(const Vector& v) { return {{v.x, v.y, v.z, v.w}}; }
  /// Zeros, and `value` at `place`.
  static __device__ Vector at(std::int32_t place, float value) {
    return {place == 0 ? value : 0.0f, place == 1 ? value : 0.0f, place == 2 ? value : 0.0f,
            place == 3 ? value : 0.0f};
  }
};

/// Vectors of 16-bit elements are two words, not four registers.
struct Vector16 {
  using Element = std::uint16_t;
  using Vector = uint2;
  static __device__ Vector pack(unsigned a, unsigned b, unsigned c, unsigned d) {
    return make_uint2(a | b << 16, c | d << 16);
  }
  static __device__ Vector at(std::int32_t place, unsigned value) {
    const unsigned word = value << (place % 2 * 16);
    return {place < 2 ? word : 0u, place < 2 ? 0u : word};
  }
  template <class Format>
  static __device__ Quad widen_with(const Vector& v) {
    return {
        {Format::widen(static_cast<Element>(v.x)), Format::widen(static_cast<Element>(v.x >> 16)),
         Format::widen(static_cast<Element>(v.y)), Format::widen(static_cast<Element>(v.y >> 16))}};
  }
};

struct Float16 : Vector16 {
  static __device__ float widen(std::uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
  static __device__ Quad widen_all(const Vector& v) { return widen_with<Float16>(v); }
  static __device__ std::uint16_t narrow(float value) {
    return __half_as_ushort(__float2half_rn(value));
  }
};

struct Bfloat16 : Vector16 {
  static __device__ float widen(std::uint16_t bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
  }
  static __device__ Quad widen_all(const Vector& v) { return widen_with<Bfloat16>(v); }
  static __device__ std::uint16_t narrow(float value) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
};

/// Calls body with the format's type.
template <class Body>
__device__ auto with_format(ElementFormat format, const Body& body) {
  switch (format) {
    case ElementFormat::float16: return body(Float16());
    case ElementFormat::bfloat16: return body(Bfloat16());
    default: return body(Float32());
  }
}

}  // namespace scalecom::kernels::cuda
