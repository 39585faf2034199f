#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace scalecom::kernels {

/// The value of an IEEE binary16 as float32: exact. A signalling NaN becomes quiet.
inline float float_of_half(std::uint16_t half) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7FFFu;
  if (magnitude > 0x7C00u) {
    return std::bit_cast<float>(sign | 0x7FC00000u | (magnitude << 13));
  }
  if (magnitude == 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u);
  if (magnitude >= 0x0400u) {
    return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
  }
  // Zero or subnormal: magnitude * 2^-24.
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

/// Rounds to nearest even; beyond 65,519.99 to infinity. A NaN becomes quiet.
inline std::uint16_t half_of_float(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {
    return static_cast<std::uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x03FFu));
  }
  if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);
  if (magnitude < 0x38800000u) {
    // Subnormal in binary16: adding 0.5 aligns its last bit with float32's, and rounds.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3F000000u));
  }
  const std::uint32_t rounded = magnitude + 0x0FFFu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline float float_of_bfloat(std::uint16_t value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

/// Rounds to nearest even. A NaN becomes quiet.
inline std::uint16_t bfloat_of_float(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

/// Element formats of floating-point tensors as seen by scalar code: `load` and `store` work on
/// element `index` of memory without alignment.
struct Float32Format {
  static constexpr std::size_t kBytes = 4;
  static float load(const std::byte* data, std::size_t index) noexcept {
    float value;
    std::memcpy(&value, data + index * kBytes, kBytes);
    return value;
  }
  static void store(std::byte* data, std::size_t index, float value) noexcept {
    std::memcpy(data + index * kBytes, &value, kBytes);
  }
};

template <float (*kWiden)(std::uint16_t), std::uint16_t (*kNarrow)(float)>
struct Float16BitFormat {
  static constexpr std::size_t kBytes = 2;
  static float load(const std::byte* data, std::size_t index) noexcept {
    std::uint16_t value;
    std::memcpy(&value, data + index * kBytes, kBytes);
    return kWiden(value);
  }
  static void store(std::byte* data, std::size_t index, float value) noexcept {
    const std::uint16_t narrow = kNarrow(value);
    std::memcpy(data + index * kBytes, &narrow, kBytes);
  }
};

using Float16Format = Float16BitFormat<float_of_half, half_of_float>;
using Bfloat16Format = Float16BitFormat<float_of_bfloat, bfloat_of_float>;

}  // namespace scalecom::kernels
