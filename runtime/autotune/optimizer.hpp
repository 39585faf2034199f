#pragma once

#include <cstddef>
#include <vector>

#include "runtime/autotune/gaussian_process.hpp"

namespace scalecom::autotune {

/// Expected improvement over `best` of a value that is normally distributed (Jones, Schonlau and
/// Welch 1998, equation 15).
double expected_improvement(const Belief& belief, double best) noexcept;

/// Looks for the largest value of a function of the unit square that is known only by noisy
/// measurements of candidates, which cost something: Bayesian optimisation. Draws no random
/// numbers: the same scores lead to the same choices.
class Optimizer {
 public:
  /// `first` is the place in `candidates` of the one to be measured first. `noise`: see believe().
  Optimizer(std::vector<Point> candidates, std::size_t first, double noise);

  /// The candidate to be measured next: the first; then some spread over the square; then
  /// the one with the largest expected improvement, which may have been measured before.
  std::size_t next() const;

  void add(std::size_t candidate, double value);

  /// The measured candidate that is believed to be the best; the first before any is measured.
  std::size_t best() const;

 private:
  std::size_t spread() const;
  std::vector<std::size_t> measured_;  ///< candidates, by observation
  std::vector<Observation> observations_;
  const std::vector<Point> candidates_;
  const std::size_t first_;
  const double noise_;
};

}  // namespace scalecom::autotune
