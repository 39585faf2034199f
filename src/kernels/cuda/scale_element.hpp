#pragma once

#include <cstdint>

#include "kernels/integer_of.hpp"

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

/// To float32 towards zero, with the last bit set where that is not exact ("round to odd"):
/// rounding the result again, to 16 bits, sees what the first rounding has dropped.
constexpr float odd_float(double value) {
  constexpr std::uint64_t kDropped = (std::uint64_t{1} << 29) - 1;
  const auto bits = __builtin_bit_cast(std::uint64_t, value);
  const std::uint64_t sticky = (bits & kDropped) == 0 ? 0 : kDropped + 1;
  return static_cast<float>(__builtin_bit_cast(double, (bits & ~kDropped) | sticky));
}

/// `kIsWide`: a float32 element; else the result is for rounding to 16 bits.
template <ScaleStep kStep, bool kIsWide>
constexpr float scale_element(float value, const Scaling& scaling) {
  switch (kStep) {
    case ScaleStep::copy: return value;
    case ScaleStep::multiply_in_float: return value * scaling.factor;
    case ScaleStep::divide_in_float: return value / scaling.factor;
    case ScaleStep::in_double: break;
  }
  const double exact = static_cast<double>(value) * scaling.multiply / scaling.divide;
  return kIsWide ? static_cast<float>(exact) : odd_float(exact);
}

constexpr double scale_in_double(double value, const Scaling& scaling) {
  return value * scaling.multiply / scaling.divide;
}

template <class Integer>
constexpr Integer scale_in_double(Integer value, const Scaling& scaling) {
  return integer_of<Integer>(scale_in_double(static_cast<double>(value), scaling));
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
  /// Bytes between a vector's begin in a source and a multiple of 16.
  constexpr std::int32_t source_shift(std::uint64_t source) const {
    return static_cast<std::int32_t>((source - static_cast<std::uint64_t>(shift)) % kVectorBytes);
  }
};

/// The vectors that a warp copies at a time.
struct CopyUnit {
  std::int64_t begin = 0;  ///< where the first one begins in the run: negative if it is not whole
  std::int32_t first = 0;  ///< the unit's bytes that belong to the run: from here
  std::int32_t end = 0;    ///< to here

  constexpr CopyUnit(const CopyLayout& layout, std::int64_t unit, std::int32_t vectors) {
    const std::int32_t bytes = vectors * CopyLayout::kVectorBytes;
    begin = unit * bytes - layout.shift;
    first = begin < 0 ? layout.shift : 0;
    end = layout.bytes - begin < bytes ? static_cast<std::int32_t>(layout.bytes - begin) : bytes;
  }
  constexpr bool is_whole(std::int32_t vector) const {
    const std::int32_t place = vector * CopyLayout::kVectorBytes;
    return place >= first && place + CopyLayout::kVectorBytes <= end;
  }
  constexpr bool has_only_whole() const {
    return first % CopyLayout::kVectorBytes == 0 && end % CopyLayout::kVectorBytes == 0;
  }
  /// True for the outer vectors of a run that are not whole.
  constexpr bool is_part(std::int32_t vector) const {
    const std::int32_t place = vector * CopyLayout::kVectorBytes;
    return !is_whole(vector) && place + CopyLayout::kVectorBytes > first && place < end;
  }
};

}  // namespace scalecom::kernels::cuda
