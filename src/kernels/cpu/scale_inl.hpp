// Included once for each SIMD target (see foreach_target.h of Highway), hence without a guard.

#include <cstring>

#include "kernels/cpu/scale.hpp"
#include "kernels/cpu/vector_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace scalecom::kernels::HWY_NAMESPACE {

struct MultiplyInFloat {
  using Tag = hn::ScalableTag<float>;
  explicit MultiplyInFloat(Scale scale)
      : factor(hn::Set(Tag(), static_cast<float>(scale.multiply))) {}
  HWY_INLINE hn::Vec<Tag> apply(hn::Vec<Tag> value) const { return hn::Mul(value, factor); }
  hn::Vec<Tag> factor;
};

struct DivideInFloat {
  using Tag = hn::ScalableTag<float>;
  explicit DivideInFloat(Scale scale) : divisor(hn::Set(Tag(), static_cast<float>(scale.divide))) {}
  HWY_INLINE hn::Vec<Tag> apply(hn::Vec<Tag> value) const { return hn::Div(value, divisor); }
  hn::Vec<Tag> divisor;
};

struct InDouble {
  explicit InDouble(Scale scale)
      : multiply(hn::Set(Doubles(), scale.multiply)), divide(hn::Set(Doubles(), scale.divide)) {}
  HWY_INLINE DoubleVector exact(DoubleVector value) const {
    return hn::Div(hn::Mul(value, multiply), divide);
  }
  DoubleVector multiply;
  DoubleVector divide;
};

struct ToFloat32 : InDouble {
  using Tag = hn::Rebind<float, Doubles>;
  using InDouble::InDouble;
  HWY_INLINE hn::Vec<Tag> apply(hn::Vec<Tag> value) const {
    return narrowed(exact(hn::PromoteTo(Doubles(), value)));
  }
};

/// For 16-bit results: rounds to float32 towards zero and sets the last bit where that was not
/// exact ("round to odd"), so that the second rounding sees what the first has dropped.
struct ToOddFloat32 : InDouble {
  using Tag = hn::Rebind<float, Doubles>;
  using InDouble::InDouble;
  HWY_INLINE hn::Vec<Tag> apply(hn::Vec<Tag> value) const {
    const hn::RebindToUnsigned<Doubles> du;
    constexpr std::uint64_t kDropped = (std::uint64_t{1} << 29) - 1;
    const auto bits = hn::BitCast(du, exact(hn::PromoteTo(Doubles(), value)));
    const auto rest = hn::And(bits, hn::Set(du, kDropped));
    const auto kept = hn::Xor(bits, rest);
    const auto sticky = hn::IfThenZeroElse(hn::Eq(rest, hn::Zero(du)), hn::Set(du, kDropped + 1));
    return narrowed(hn::BitCast(Doubles(), hn::Or(kept, sticky)));
  }
};

struct Double : InDouble {
  using Tag = Doubles;
  using InDouble::InDouble;
  HWY_INLINE DoubleVector apply(DoubleVector value) const { return exact(value); }
};

template <class Format, class Method>
void scale_with(const ScaleArguments& arguments) {
  const typename Method::Tag d;
  const Method method(arguments.scale);
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= arguments.count; i += lanes) {
    Format::store(d, method.apply(Format::load(d, arguments.source, i)), arguments.destination, i);
  }
  const std::size_t rest = (arguments.count - i) * Format::kBytes;
  if (rest == 0) return;
  HWY_ALIGN std::byte tail[HWY_MAX_BYTES] = {};
  std::memcpy(tail, arguments.source + i * Format::kBytes, rest);
  Format::store(d, method.apply(Format::load(d, tail, 0)), tail, 0);
  std::memcpy(arguments.destination + i * Format::kBytes, tail, rest);
}

template <class Format, class InDoubleMethod>
void scale_floats(const ScaleArguments& arguments) {
  switch (arguments.method) {
    case ScaleMethod::multiply_in_float: return scale_with<Format, MultiplyInFloat>(arguments);
    case ScaleMethod::divide_in_float: return scale_with<Format, DivideInFloat>(arguments);
    case ScaleMethod::in_double: return scale_with<Format, InDoubleMethod>(arguments);
  }
}

void run_scale(const ScaleArguments& arguments) {
  switch (arguments.dtype) {
    case DataType::float16: return scale_floats<Float16Vectors, ToOddFloat32>(arguments);
    case DataType::bfloat16: return scale_floats<Bfloat16Vectors, ToOddFloat32>(arguments);
    case DataType::float64: return scale_with<DoubleFormat, Double>(arguments);
    default: return scale_floats<Float32Vectors, ToFloat32>(arguments);
  }
}

}  // namespace scalecom::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
