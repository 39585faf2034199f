#include "kernels/cpu/scale.hpp"

#include <fmt/format.h>

#include <cstring>

#include "base/error.hpp"
#include "kernels/integer_of.hpp"

#define HWY_TARGET_INCLUDE "kernels/cpu/scale_inl.hpp"
#include <hwy/foreach_target.h>
// The target of the compiler's own flags comes last.
#include "kernels/cpu/scale_inl.hpp"

namespace scalecom::kernels {
namespace {

HWY_EXPORT(run_scale);

template <class T>
void scale_integers(const ScaleArguments& arguments) {
  for (std::size_t i = 0; i < arguments.count; ++i) {
    T value;
    std::memcpy(&value, arguments.source + i * sizeof(T), sizeof(T));
    const double exact =
        static_cast<double>(value) * arguments.scale.multiply / arguments.scale.divide;
    value = integer_of<T>(exact);
    std::memcpy(arguments.destination + i * sizeof(T), &value, sizeof(T));
  }
}

}  // namespace

void scale_copy(std::byte* destination, const std::byte* source, std::int64_t count, DataType dtype,
                Scale scale) {
  SCALECOM_ASSERT(count >= 0, fmt::format("{} elements", count));
  if (count == 0) return;
  if (scale.is_identity()) {
    if (destination != source) {
      std::memcpy(destination, source, static_cast<std::size_t>(count * size_of(dtype)));
    }
    return;
  }
  SCALECOM_ASSERT(dtype != DataType::boolean,
                  fmt::format("booleans times {} / {}", scale.multiply, scale.divide));
  const ScaleChoice choice = choose_scale_method(dtype, scale);
  const ScaleArguments arguments{destination, source,       static_cast<std::size_t>(count),
                                 dtype,       choice.scale, choice.method};
  switch (dtype) {
    case DataType::uint8: return scale_integers<std::uint8_t>(arguments);
    case DataType::int8: return scale_integers<std::int8_t>(arguments);
    case DataType::int16: return scale_integers<std::int16_t>(arguments);
    case DataType::int32: return scale_integers<std::int32_t>(arguments);
    case DataType::int64: return scale_integers<std::int64_t>(arguments);
    default: return HWY_DYNAMIC_DISPATCH(run_scale)(arguments);
  }
}

}  // namespace scalecom::kernels
