#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/half.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom::test {

/// A tensor's memory at an address that is not a multiple of anything, with guard bytes behind it.
class RawTensor {
 public:
  RawTensor(DataType dtype, std::int64_t count, std::size_t misalignment = 1)
      : bytes_(static_cast<std::size_t>(count * size_of(dtype))),
        misalignment_(misalignment),
        memory_(misalignment + bytes_ + kGuard, std::byte{0xA5}) {}

  std::byte* data() { return memory_.data() + misalignment_; }
  const std::byte* data() const { return memory_.data() + misalignment_; }
  std::size_t bytes() const { return bytes_; }

  template <class T>
  T get(std::size_t index) const {
    T value;
    std::memcpy(&value, data() + index * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  void set(std::size_t index, T value) {
    std::memcpy(data() + index * sizeof(T), &value, sizeof(T));
  }

  bool is_guard_intact() const {
    for (std::size_t i = misalignment_ + bytes_; i < memory_.size(); ++i) {
      if (memory_[i] != std::byte{0xA5}) return false;
    }
    return true;
  }
  bool operator==(const RawTensor& other) const { return memory_ == other.memory_; }

 private:
  static constexpr std::size_t kGuard = 64;
  std::size_t bytes_;
  std::size_t misalignment_;
  std::vector<std::byte> memory_;
};

inline double floating_of(const RawTensor& tensor, DataType dtype, std::size_t index) {
  switch (dtype) {
    case DataType::float16: return kernels::float_of_half(tensor.get<std::uint16_t>(index));
    case DataType::bfloat16: return kernels::float_of_bfloat(tensor.get<std::uint16_t>(index));
    case DataType::float64: return tensor.get<double>(index);
    default: return tensor.get<float>(index);
  }
}

inline void set_floating(RawTensor& tensor, DataType dtype, std::size_t index, double value) {
  const auto single = static_cast<float>(value);
  switch (dtype) {
    case DataType::float16: return tensor.set<std::uint16_t>(index, kernels::half_of_float(single));
    case DataType::bfloat16:
      return tensor.set<std::uint16_t>(index, kernels::bfloat_of_float(single));
    case DataType::float64: return tensor.set<double>(index, value);
    default: return tensor.set<float>(index, single);
  }
}

/// Normal values, and at one place in `special_period` a NaN, an infinity, a signed zero or a
/// subnormal.
inline void fill_floating(RawTensor& tensor, DataType dtype, std::int64_t count,
                          std::mt19937& generator, unsigned special_period) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double specials[] = {std::nan(""), kInfinity, -kInfinity, 0.0, -0.0, 1e-40, -6e-8};
  std::normal_distribution<double> normal(0.0, 3.0);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const bool is_special = special_period > 0 && generator() % special_period == 0;
    set_floating(tensor, dtype, i, is_special ? specials[generator() % 7] : normal(generator));
  }
}

}  // namespace scalecom::test
