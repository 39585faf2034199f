#pragma once

#include <limits>

namespace scalecom::kernels {

/// Truncates; beyond T's range the nearest limit, and zero for NaN. C++17: CUDA's kernels run it
/// too.
template <class T>
constexpr T integer_of(double value) {
  // As double, T's largest value may round up to one that is out of range.
  if (value >= static_cast<double>(std::numeric_limits<T>::max())) {
    return std::numeric_limits<T>::max();
  }
  if (value <= static_cast<double>(std::numeric_limits<T>::min())) {
    return std::numeric_limits<T>::min();
  }
  return value == value ? static_cast<T>(value) : T{0};
}

}  // namespace scalecom::kernels
