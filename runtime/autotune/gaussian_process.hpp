#pragma once

#include <array>
#include <span>
#include <vector>

namespace scalecom::autotune {

/// A place in the unit square.
using Point = std::array<double, 2>;

/// A value of the function, with noise.
struct Observation {
  Point point{};
  double value = 0;
};

/// What is believed of the function's value at a point, in the unit of the observations.
struct Belief {
  double mean = 0;
  double deviation = 0;  ///< standard; of the function, without the observations' noise
};

/// The posterior of a Gaussian process at each of `points`, in their order (Rasmussen and Williams,
/// Gaussian Processes for Machine Learning, algorithm 2.1). Values are brought to mean 0 and
/// variance 1 first; `noise` is the standard deviation of theirs in that unit. The kernel is
/// squared exponential with a length scale for each coordinate; these and the function's own
/// deviation are taken from a grid by the marginal likelihood. Without observations: mean 0,
/// deviation 1.
std::vector<Belief> believe(std::span<const Observation> observations,
                            std::span<const Point> points, double noise);

}  // namespace scalecom::autotune
