#pragma once

#include <cstdint>

/// How scale_copy() scales one element: the results of kernels/reduce.hpp's scale_copy, to the bit.
/// C++17 and constexpr, like element.hpp.
namespace scalecom::kernels::cuda {

enum class ScaleStep : std::int32_t { copy, multiply_in_float, divide_in_float, in_double };

struct Scaling {
  ScaleStep step = ScaleStep::copy;
  float factor = 1.0f;  ///< of the steps in float: to multiply with, or to divide by
  double multiply = 1.0;
  double divide = 1.0;
};

constexpr double exactly_scaled(float value, const Scaling& scaling) {
  return static_cast<double>(value) * scaling.multiply / scaling.divide;
}

/// To float32 towards zero, with the last bit set where that is not exact ("round to odd"):
/// rounding the result again, to 16 bits, sees what the first rounding has dropped.
constexpr float odd_float(double value) {
  constexpr std::uint64_t kDropped = (std::uint64_t{1} << 29) - 1;
  const auto bits = __builtin_bit_cast(std::uint64_t, value);
  const std::uint64_t sticky = (bits & kDropped) == 0 ? 0 : kDropped + 1;
  return static_cast<float>(__builtin_bit_cast(double, (bits & ~kDropped) | sticky));
}

/// `kIsWide`: a float32 element; else the result is for rounding to 16 bits.
template <bool kIsWide>
constexpr float scale_element(float value, const Scaling& scaling) {
  switch (scaling.step) {
    case ScaleStep::copy: return value;
    case ScaleStep::multiply_in_float: return value * scaling.factor;
    case ScaleStep::divide_in_float: return value / scaling.factor;
    case ScaleStep::in_double: break;
  }
  const double exact = exactly_scaled(value, scaling);
  return kIsWide ? static_cast<float>(exact) : odd_float(exact);
}

/// A run of bytes as 16-byte vectors of its destination's memory, the first and last of which may
/// be whole or not.
struct CopyLayout {
  std::int32_t shift = 0;  ///< bytes between the first vector's begin and the run's
  std::int64_t bytes = 0;

  static constexpr std::int32_t kVectorBytes = 16;

  constexpr std::int64_t vectors() const {
    return bytes == 0 ? 0 : (bytes + shift + kVectorBytes - 1) / kVectorBytes;
  }
  /// Where a vector begins in the run: negative for a first one that is not whole.
  constexpr std::int64_t begin(std::int64_t vector) const { return vector * kVectorBytes - shift; }
  constexpr bool is_whole(std::int64_t vector) const {
    return begin(vector) >= 0 && begin(vector) + kVectorBytes <= bytes;
  }
};

}  // namespace scalecom::kernels::cuda
