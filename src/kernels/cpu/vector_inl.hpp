// Included once for each SIMD target (see foreach_target.h of Highway), hence without a guard.
// Vectors of float32 from and to memory in the three floating-point formats.

#include <hwy/highway.h>

#include "kernels/cpu/half.hpp"

HWY_BEFORE_NAMESPACE();
namespace scalecom::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Highway emulates float16 where the processor lacks it (F16C came with AVX2), without infinities.
inline constexpr bool kHasF16 = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3;

using Doubles = hn::ScalableTag<double>;
using DoubleVector = hn::Vec<Doubles>;

/// Rounds to nearest even. Without SIMD, Highway's own function turns infinities into the largest
/// finite values.
HWY_INLINE hn::Vec<hn::Rebind<float, Doubles>> narrowed(DoubleVector value) {
  const hn::Rebind<float, Doubles> d;
  if constexpr (HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128) {
    HWY_ALIGN double wide[HWY_MAX_BYTES / sizeof(double)];
    HWY_ALIGN float narrow[HWY_MAX_BYTES / sizeof(double)];
    hn::Store(value, Doubles(), wide);
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) narrow[i] = static_cast<float>(wide[i]);
    return hn::Load(d, narrow);
  } else {
    return hn::DemoteTo(d, value);
  }
}

struct DoubleFormat {
  static constexpr std::size_t kBytes = sizeof(double);
  static HWY_INLINE DoubleVector load(Doubles d, const std::byte* data, std::size_t index) {
    return hn::LoadU(d, reinterpret_cast<const double*>(data + index * kBytes));
  }
  static HWY_INLINE void store(Doubles d, DoubleVector value, std::byte* data, std::size_t index) {
    hn::StoreU(value, d, reinterpret_cast<double*>(data + index * kBytes));
  }
};

/// A format's vectors: `load` and `store` move Lanes(d) elements, starting at element `index`.
struct Float32Vectors : Float32Format {
  using Float32Format::load;
  using Float32Format::store;

  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const std::byte* data, std::size_t index) {
    return hn::LoadU(d, reinterpret_cast<const float*>(data + index * kBytes));
  }
  template <class D>
  static HWY_INLINE void store(D d, hn::Vec<D> value, std::byte* data, std::size_t index) {
    hn::StoreU(value, d, reinterpret_cast<float*>(data + index * kBytes));
  }
};

template <class D>
HWY_INLINE hn::Vec<D> widen_half(D d, hn::Vec<hn::Rebind<std::uint16_t, D>> half) {
  if constexpr (kHasF16) {
    const hn::Rebind<hwy::float16_t, D> d16;
    return hn::PromoteTo(d, hn::BitCast(d16, half));
  } else {
    const hn::RebindToUnsigned<D> du;
    const auto wide = hn::PromoteTo(du, half);
    const auto magnitude = hn::And(wide, hn::Set(du, 0x7FFFu));
    const auto sign = hn::ShiftLeft<16>(hn::Xor(wide, magnitude));
    const auto shifted = hn::ShiftLeft<13>(magnitude);
    // Zero or subnormal: magnitude * 2^-24, exact.
    const hn::RebindToSigned<D> di;
    const auto tiny = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, magnitude)), hn::Set(d, 0x1p-24f));
    const auto is_tiny = hn::Lt(magnitude, hn::Set(du, 0x0400u));
    const auto is_special = hn::Gt(magnitude, hn::Set(du, 0x7BFFu));
    const auto is_nan = hn::Gt(magnitude, hn::Set(du, 0x7C00u));
    auto bits = hn::Add(shifted, hn::Set(du, 0x38000000u));
    bits = hn::IfThenElse(is_special, hn::Or(shifted, hn::Set(du, 0x7F800000u)), bits);
    bits = hn::Or(bits, hn::IfThenElseZero(is_nan, hn::Set(du, 0x00400000u)));
    bits = hn::IfThenElse(is_tiny, hn::BitCast(du, tiny), bits);
    return hn::BitCast(d, hn::Or(sign, bits));
  }
}

/// 32-bit lanes with values below 2^16 to 16-bit lanes.
template <class D, class VU>
HWY_INLINE auto narrow_bits(D, VU wide) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::RebindToSigned<D> di;
  return hn::DemoteTo(d16, hn::BitCast(di, wide));
}

template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint16_t, D>> narrow_half(D d, hn::Vec<D> value) {
  if constexpr (kHasF16) {
    const hn::Rebind<hwy::float16_t, D> d16;
    const hn::Rebind<std::uint16_t, D> du16;
    return hn::BitCast(du16, hn::DemoteTo(d16, value));
  } else {
    const hn::RebindToUnsigned<D> du;
    const auto bits = hn::BitCast(du, value);
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
    const auto sign = hn::ShiftRight<16>(hn::Xor(bits, magnitude));
    const auto is_nan = hn::Gt(magnitude, hn::Set(du, 0x7F800000u));
    const auto is_large = hn::Gt(magnitude, hn::Set(du, 0x477FEFFFu));
    const auto is_tiny = hn::Lt(magnitude, hn::Set(du, 0x38800000u));
    // As in half_of_float().
    const auto aligned = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f));
    const auto tiny = hn::Sub(hn::BitCast(du, aligned), hn::Set(du, 0x3F000000u));
    const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
    auto half = hn::Add(hn::Add(magnitude, hn::Set(du, 0x0FFFu)), odd);
    half = hn::ShiftRight<13>(hn::Sub(half, hn::Set(du, 0x38000000u)));
    half = hn::IfThenElse(is_tiny, tiny, half);
    half = hn::IfThenElse(is_large, hn::Set(du, 0x7C00u), half);
    const auto payload = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 0x03FFu));
    half = hn::IfThenElse(is_nan, hn::Or(payload, hn::Set(du, 0x7E00u)), half);
    return narrow_bits(d, hn::Or(sign, half));
  }
}

struct Float16Vectors : Float16Format {
  using Float16Format::load;
  using Float16Format::store;

  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const std::byte* data, std::size_t index) {
    const hn::Rebind<std::uint16_t, D> d16;
    return widen_half(
        d, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(data + index * kBytes)));
  }
  template <class D>
  static HWY_INLINE void store(D d, hn::Vec<D> value, std::byte* data, std::size_t index) {
    const hn::Rebind<std::uint16_t, D> d16;
    hn::StoreU(narrow_half(d, value), d16, reinterpret_cast<std::uint16_t*>(data + index * kBytes));
  }
};

struct Bfloat16Vectors : Bfloat16Format {
  using Bfloat16Format::load;
  using Bfloat16Format::store;

  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const std::byte* data, std::size_t index) {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::RebindToUnsigned<D> du;
    const auto narrow =
        hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(data + index * kBytes));
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, narrow)));
  }
  template <class D>
  static HWY_INLINE void store(D d, hn::Vec<D> value, std::byte* data, std::size_t index) {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::RebindToUnsigned<D> du;
    const auto bits = hn::BitCast(du, value);
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
    const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7FFFu)), odd));
    const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x0040u));
    const auto is_nan = hn::Gt(magnitude, hn::Set(du, 0x7F800000u));
    hn::StoreU(narrow_bits(d, hn::IfThenElse(is_nan, quiet, rounded)), d16,
               reinterpret_cast<std::uint16_t*>(data + index * kBytes));
  }
};

}  // namespace scalecom::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
