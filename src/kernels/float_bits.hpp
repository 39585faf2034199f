#pragma once

#include <cstdint>

/// Float32 as integers: without the sign they order as the values do, with Inf and NaN on top.
/// C++17, for every instruction set and for device code.
namespace scalecom::kernels {

/// All but the sign.
inline constexpr std::int32_t kAbsoluteBits = 0x7FFFFFFF;
inline constexpr std::int32_t kLargestFinite = 0x7F7FFFFF;

}  // namespace scalecom::kernels
