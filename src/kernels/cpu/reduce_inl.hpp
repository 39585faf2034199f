// Included once for each SIMD target (see foreach_target.h of Highway), hence without a guard.

#include <cstring>
#include <type_traits>

#include "kernels/cpu/vector_inl.hpp"
#include "kernels/reduce.hpp"

HWY_BEFORE_NAMESPACE();
namespace scalecom::kernels::HWY_NAMESPACE {

struct Sum {
  template <class D, class V>
  static HWY_INLINE V apply(D, V a, V b) {
    return hn::Add(a, b);
  }
};

struct Product {
  template <class D, class V>
  static HWY_INLINE V apply(D, V a, V b) {
    return hn::Mul(a, b);
  }
};

// Equal values combine bit by bit and unordered ones give a NaN, so that min and max commute to the
// last bit, signed zeros included.
struct Min {
  template <class D, class V>
  static HWY_INLINE V apply(D, V a, V b) {
    if constexpr (std::is_floating_point_v<hn::TFromD<D>>) {
      return hn::IfThenElse(hn::Lt(a, b), a, hn::IfThenElse(hn::Lt(b, a), b, hn::Or(a, b)));
    } else {
      return hn::Min(a, b);
    }
  }
};

struct Max {
  template <class D, class V>
  static HWY_INLINE V apply(D, V a, V b) {
    if constexpr (std::is_floating_point_v<hn::TFromD<D>>) {
      const V same = hn::IfThenElse(hn::Eq(a, b), hn::And(a, b), hn::Or(a, b));
      return hn::IfThenElse(hn::Gt(a, b), a, hn::IfThenElse(hn::Gt(b, a), b, same));
    } else {
      return hn::Max(a, b);
    }
  }
};

// Bytes that are not 0 count as true; the result is 0 or 1.
struct LogicalOr {
  template <class D, class V>
  static HWY_INLINE V apply(D d, V a, V b) {
    return hn::Min(hn::Or(a, b), hn::Set(d, std::uint8_t{1}));
  }
};

struct LogicalAnd {
  template <class D, class V>
  static HWY_INLINE V apply(D d, V a, V b) {
    return hn::Min(hn::Min(a, b), hn::Set(d, std::uint8_t{1}));
  }
};

/// Memory of elements that are computed in their own type T.
template <class T>
struct PlainVectors {
  using Lane = T;
  static constexpr std::size_t kBytes = sizeof(T);
  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const std::byte* data, std::size_t index) {
    return hn::LoadU(d, reinterpret_cast<const T*>(data + index * kBytes));
  }
  template <class D>
  static HWY_INLINE void store(D d, hn::Vec<D> value, std::byte* data, std::size_t index) {
    hn::StoreU(value, d, reinterpret_cast<T*>(data + index * kBytes));
  }
};

/// The same for those computed in float32.
template <class Vectors>
struct InFloat32 : Vectors {
  using Lane = float;
};

template <class Format, class Op>
void reduce_vectors(std::byte* destination, const std::byte* a, const std::byte* b,
                    std::size_t count) {
  const hn::ScalableTag<typename Format::Lane> d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    Format::store(d, Op::apply(d, Format::load(d, a, i), Format::load(d, b, i)), destination, i);
  }
  if (i == count) return;
  constexpr std::size_t kBytes = Format::kBytes;
  HWY_ALIGN std::byte a_tail[HWY_MAX_BYTES] = {};
  HWY_ALIGN std::byte b_tail[HWY_MAX_BYTES] = {};
  std::memcpy(a_tail, a + i * kBytes, (count - i) * kBytes);
  std::memcpy(b_tail, b + i * kBytes, (count - i) * kBytes);
  Format::store(d, Op::apply(d, Format::load(d, a_tail, 0), Format::load(d, b_tail, 0)), a_tail, 0);
  std::memcpy(destination + i * kBytes, a_tail, (count - i) * kBytes);
}

// Products of integers wrap around, as in two's complement.
template <class T>
void multiply_integers(std::byte* destination, const std::byte* a, const std::byte* b,
                       std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    T x;
    T y;
    std::memcpy(&x, a + i * sizeof(T), sizeof(T));
    std::memcpy(&y, b + i * sizeof(T), sizeof(T));
    const auto product =
        static_cast<T>(static_cast<std::uint64_t>(x) * static_cast<std::uint64_t>(y));
    std::memcpy(destination + i * sizeof(T), &product, sizeof(T));
  }
}

template <class Format>
void reduce_floats(std::byte* destination, const std::byte* a, const std::byte* b,
                   std::size_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::min: return reduce_vectors<Format, Min>(destination, a, b, count);
    case ReduceOp::max: return reduce_vectors<Format, Max>(destination, a, b, count);
    case ReduceOp::product: return reduce_vectors<Format, Product>(destination, a, b, count);
    default: return reduce_vectors<Format, Sum>(destination, a, b, count);
  }
}

template <class T>
void reduce_integers(std::byte* destination, const std::byte* a, const std::byte* b,
                     std::size_t count, ReduceOp op) {
  using Format = PlainVectors<T>;
  switch (op) {
    case ReduceOp::min: return reduce_vectors<Format, Min>(destination, a, b, count);
    case ReduceOp::max: return reduce_vectors<Format, Max>(destination, a, b, count);
    case ReduceOp::product: return multiply_integers<T>(destination, a, b, count);
    default: return reduce_vectors<Format, Sum>(destination, a, b, count);
  }
}

void reduce_booleans(std::byte* destination, const std::byte* a, const std::byte* b,
                     std::size_t count, ReduceOp op) {
  using Format = PlainVectors<std::uint8_t>;
  const bool is_or = op == ReduceOp::sum || op == ReduceOp::max;
  return is_or ? reduce_vectors<Format, LogicalOr>(destination, a, b, count)
               : reduce_vectors<Format, LogicalAnd>(destination, a, b, count);
}

void run_reduce(std::byte* destination, const std::byte* a, const std::byte* b, std::size_t count,
                DataType dtype, ReduceOp op) {
  switch (dtype) {
    case DataType::uint8: return reduce_integers<std::uint8_t>(destination, a, b, count, op);
    case DataType::int8: return reduce_integers<std::int8_t>(destination, a, b, count, op);
    case DataType::int16: return reduce_integers<std::int16_t>(destination, a, b, count, op);
    case DataType::int32: return reduce_integers<std::int32_t>(destination, a, b, count, op);
    case DataType::int64: return reduce_integers<std::int64_t>(destination, a, b, count, op);
    case DataType::float16:
      return reduce_floats<InFloat32<Float16Vectors>>(destination, a, b, count, op);
    case DataType::bfloat16:
      return reduce_floats<InFloat32<Bfloat16Vectors>>(destination, a, b, count, op);
    case DataType::float32:
      return reduce_floats<InFloat32<Float32Vectors>>(destination, a, b, count, op);
    case DataType::float64:
      return reduce_floats<PlainVectors<double>>(destination, a, b, count, op);
    case DataType::boolean: return reduce_booleans(destination, a, b, count, op);
  }
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace scalecom::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
