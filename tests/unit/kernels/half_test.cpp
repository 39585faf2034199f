#include "kernels/cpu/half.hpp"

#include <cmath>
#include <limits>

#include "tests/support/catch.hpp"

using namespace scalecom::kernels;

namespace {

/// The value by its definition: (-1)^s 2^(e-bias) 1.f.
double defined_value(unsigned bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const unsigned mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias)
                       : sign * std::ldexp(1.0 + fraction, exponent - bias);
}

/// Each code, the middle to the next one and the float32 neighbours of the middle. Returns the
/// number of wrong answers.
template <class Widen, class Narrow>
int wrong_answers(int exponent_bits, int mantissa_bits, Widen widen, Narrow narrow) {
  int wrong = 0;
  const unsigned infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const double value = defined_value(bits, exponent_bits, mantissa_bits);
    const float widened = widen(static_cast<std::uint16_t>(bits));
    const std::uint16_t back = narrow(widened);
    if (std::isnan(value)) {
      wrong += !std::isnan(widened) || !std::isnan(widen(back));
      continue;
    }
    wrong += static_cast<double>(widened) != value || std::signbit(widened) != (bits >> 15 != 0);
    wrong += back != bits;
    if ((bits & 0x7FFF) >= infinity) continue;
    // The distance to the next code; beyond the largest as if there were one more.
    const double next = (bits & 0x7FFF) + 1 < infinity
                            ? defined_value(bits + 1, exponent_bits, mantissa_bits)
                            : 2 * value - defined_value(bits - 1, exponent_bits, mantissa_bits);
    const auto middle = static_cast<float>((value + next) / 2);
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    wrong += narrow(middle) != even;
    wrong += narrow(std::nextafter(middle, 0.0f)) != bits;
    const float beyond = std::signbit(middle) ? -INFINITY : INFINITY;
    wrong += narrow(std::nextafter(middle, beyond)) != bits + 1;
  }
  return wrong;
}

}  // namespace

TEST_CASE("every float16 widens exactly, and every middle rounds to the even neighbour") {
  CHECK(wrong_answers(5, 10, float_of_half, half_of_float) == 0);
}

TEST_CASE("every bfloat16 widens exactly, and every middle rounds to the even neighbour") {
  // The middle behind the largest bfloat16 and those of the subnormals are float32 values too.
  CHECK(wrong_answers(8, 7, float_of_bfloat, bfloat_of_float) == 0);
}

TEST_CASE("float32 beyond the range of float16 becomes infinite, tiny values zero of their sign") {
  CHECK(half_of_float(65519.99f) == 0x7BFF);
  CHECK(half_of_float(65520.0f) == 0x7C00);
  CHECK(half_of_float(-1e30f) == 0xFC00);
  CHECK(half_of_float(1e-10f) == 0x0000);
  CHECK(half_of_float(-1e-10f) == 0x8000);
}
