// Included once for each SIMD target (see foreach_target.h of Highway), hence without a guard.

#include <cstring>

#include "kernels/adasum.hpp"
#include "kernels/cpu/vector_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace scalecom::kernels::HWY_NAMESPACE {

/// A format's elements as vectors of double.
template <class Format>
struct AsDoubles {
  using Tag = hn::Rebind<float, Doubles>;
  static constexpr std::size_t kBytes = Format::kBytes;
  static HWY_INLINE DoubleVector load(const std::byte* data, std::size_t index) {
    return hn::PromoteTo(Doubles(), Format::load(Tag(), data, index));
  }
  static HWY_INLINE void store(DoubleVector value, std::byte* data, std::size_t index) {
    Format::store(Tag(), narrowed(value), data, index);
  }
};

template <>
struct AsDoubles<DoubleFormat> {
  static constexpr std::size_t kBytes = DoubleFormat::kBytes;
  static HWY_INLINE DoubleVector load(const std::byte* data, std::size_t index) {
    return DoubleFormat::load(Doubles(), data, index);
  }
  static HWY_INLINE void store(DoubleVector value, std::byte* data, std::size_t index) {
    DoubleFormat::store(Doubles(), value, data, index);
  }
};

/// Fewer elements than a vector has, and zeros behind them.
template <class Format>
struct Tail {
  Tail(const std::byte* data, std::size_t begin, std::size_t count)
      : bytes((count - begin) * Format::kBytes) {
    if (bytes > 0) std::memcpy(memory, data + begin * Format::kBytes, bytes);
  }
  HWY_ALIGN std::byte memory[HWY_MAX_BYTES] = {};
  std::size_t bytes;
};

template <class Format>
PairProducts products_of(const std::byte* a, const std::byte* b, std::size_t count) {
  const Doubles d;
  DoubleVector dot = hn::Zero(d);
  DoubleVector norm_a = hn::Zero(d);
  DoubleVector norm_b = hn::Zero(d);
  const auto add = [&](const std::byte* left, const std::byte* right, std::size_t index) {
    const DoubleVector x = Format::load(left, index);
    const DoubleVector y = Format::load(right, index);
    dot = hn::MulAdd(x, y, dot);
    norm_a = hn::MulAdd(x, x, norm_a);
    norm_b = hn::MulAdd(y, y, norm_b);
  };
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) add(a, b, i);
  if (i < count) add(Tail<Format>(a, i, count).memory, Tail<Format>(b, i, count).memory, 0);
  const auto sum = [d](DoubleVector value) { return hn::GetLane(hn::SumOfLanes(d, value)); };
  return {sum(dot), sum(norm_a), sum(norm_b)};
}

template <class Format>
void add_weighted(std::byte* a, double weight_a, const std::byte* b, double weight_b,
                  std::size_t count) {
  const Doubles d;
  const DoubleVector left = hn::Set(d, weight_a);
  const DoubleVector right = hn::Set(d, weight_b);
  const auto add = [&](std::byte* x, const std::byte* y, std::size_t index) {
    Format::store(
        hn::Add(hn::Mul(left, Format::load(x, index)), hn::Mul(right, Format::load(y, index))), x,
        index);
  };
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) add(a, b, i);
  if (i == count) return;
  Tail<Format> tail(a, i, count);
  add(tail.memory, Tail<Format>(b, i, count).memory, 0);
  std::memcpy(a + i * Format::kBytes, tail.memory, tail.bytes);
}

PairProducts run_pair_products(const std::byte* a, const std::byte* b, std::size_t count,
                               DataType dtype) {
  switch (dtype) {
    case DataType::float16: return products_of<AsDoubles<Float16Vectors>>(a, b, count);
    case DataType::bfloat16: return products_of<AsDoubles<Bfloat16Vectors>>(a, b, count);
    case DataType::float64: return products_of<AsDoubles<DoubleFormat>>(a, b, count);
    default: return products_of<AsDoubles<Float32Vectors>>(a, b, count);
  }
}

void run_weighted_sum(std::byte* a, double weight_a, const std::byte* b, double weight_b,
                      std::size_t count, DataType dtype) {
  switch (dtype) {
    case DataType::float16:
      return add_weighted<AsDoubles<Float16Vectors>>(a, weight_a, b, weight_b, count);
    case DataType::bfloat16:
      return add_weighted<AsDoubles<Bfloat16Vectors>>(a, weight_a, b, weight_b, count);
    case DataType::float64:
      return add_weighted<AsDoubles<DoubleFormat>>(a, weight_a, b, weight_b, count);
    default: return add_weighted<AsDoubles<Float32Vectors>>(a, weight_a, b, weight_b, count);
  }
}

}  // namespace scalecom::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
