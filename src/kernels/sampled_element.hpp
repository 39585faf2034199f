#pragma once

/// What a sampled step reads back of one element that a sweep has left (kernels/select.hpp).
/// Vocabulary and the update: there. C++17 and constexpr, so that the CPU and device code run the
/// same lines.
namespace scalecom::kernels {

struct SampledElement {
  double error = 0.0;        ///< p - sent
  double compensated = 0.0;  ///< p
};

/// Of an element that was not selected: none of p = m' + (1-beta) g was sent, where m' = `residual`
/// is m + beta g.
constexpr SampledElement unsent_element(float residual, float g, double beta) {
  const double p = static_cast<double>(residual) + (1.0 - beta) * static_cast<double>(g);
  return {p, p};
}

/// Of a selected one, of which the sweep kept m' = `kept`; p - sent follows from the update
/// m <- (1-beta) m + beta (p - sent), which has left `residual`.
constexpr SampledElement sent_element(float residual, float kept, float g, double beta) {
  const double rest = 1.0 - beta;
  const double gradient = static_cast<double>(g);
  const double before = static_cast<double>(kept) - beta * gradient;
  return {(static_cast<double>(residual) - rest * before) / beta,
          static_cast<double>(kept) + rest * gradient};
}

}  // namespace scalecom::kernels
