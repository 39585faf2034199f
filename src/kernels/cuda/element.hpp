#pragma once

#include <cstdint>

#include "kernels/float_bits.hpp"

/// What the CUDA passes do with one element: the definition in kernels/select.hpp, to the bit.
/// C++17 and constexpr, which device code may call (--expt-relaxed-constexpr), so that the CPU's
/// tests run the same lines. Neither side may contract a multiplication and an addition.
namespace scalecom::kernels::cuda {

/// |value| as an integer.
constexpr std::int32_t absolute_bits(float value) {
  return __builtin_bit_cast(std::int32_t, value) & kAbsoluteBits;
}

/// The residual after the sweep, and the bits of |p|.
struct SweptElement {
  float residual = 0.0f;
  std::int32_t bits = 0;
};

constexpr SweptElement sweep_element(float residual, float g, float beta) {
  const std::int32_t bits = absolute_bits(residual + g);
  const float change = beta * g;
  return {residual + (bits > kLargestFinite ? 0.0f : change), bits};
}

/// Four neighbouring elements.
struct Quad {
  float at[4] = {};
};

struct SweptQuad {
  Quad residual;
  std::int32_t bits = 0;       ///< the largest bits of |p|
  std::int32_t largest = 0;    ///< the first element that has them
  std::int32_t nonfinite = 0;  ///< elements with p not finite
};

/// sweep_element() for each. Without a branch around the four that are not finite: what that would
/// compute anew would hold 12 registers until there.
constexpr SweptQuad sweep_quad(const Quad& residual, const Quad& g, float beta) {
  SweptQuad swept;
  std::int32_t bits[4] = {};
  for (int i = 0; i < 4; ++i) {
    const SweptElement element = sweep_element(residual.at[i], g.at[i], beta);
    swept.residual.at[i] = element.residual;
    bits[i] = element.bits;
  }
  const std::int32_t first = bits[0] < bits[1] ? bits[1] : bits[0];
  const std::int32_t second = bits[2] < bits[3] ? bits[3] : bits[2];
  swept.bits = first < second ? second : first;
  swept.largest = first < second ? (bits[2] < bits[3] ? 3 : 2) : (bits[0] < bits[1] ? 1 : 0);
  if (swept.bits > kLargestFinite) {
    for (int i = 0; i < 4; ++i) swept.nonfinite += bits[i] > kLargestFinite ? 1 : 0;
  }
  return swept;
}

/// The residual before the sweep, but for the rounding of m + beta g.
constexpr float undo_element(float residual, float g, float beta) {
  const float change = beta * g;
  const std::int32_t bits = absolute_bits((residual - change) + g);
  return residual - (bits > kLargestFinite ? 0.0f : change);
}

/// A selected element after the sweep has left `residual`: the residual to be, and what is sent.
struct TakenElement {
  float residual = 0.0f;
  float sent = 0.0f;
};

/// `round` maps a float to the nearest one that the values' dtype has.
template <class Round>
constexpr TakenElement take_element(float residual, float g, float beta, float limit, Round round) {
  // In float64, so that only the sweep's own rounding is left.
  const double wide_beta = static_cast<double>(beta);
  const double rest = 1.0 - wide_beta;
  const double before = static_cast<double>(residual) - wide_beta * static_cast<double>(g);
  const float p = static_cast<float>(static_cast<double>(residual) + rest * static_cast<double>(g));
  const float sent = round(p < -limit ? -limit : (limit < p ? limit : p));
  const double unsent = static_cast<double>(p) - static_cast<double>(sent);
  return {static_cast<float>(rest * before + wide_beta * unsent), sent};
}

/// The best element that a lane has seen in a chunk.
struct Candidate {
  std::int32_t bits = -1;
  std::int32_t place = 0x7FFFFFFF;

  constexpr bool is_beaten_by(const Candidate& other) const {
    return other.bits > bits || (other.bits == bits && other.place < place);
  }
};

}  // namespace scalecom::kernels::cuda
