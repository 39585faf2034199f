#include "runtime/autotune/gaussian_process.hpp"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <limits>

namespace scalecom::autotune {
namespace {

// In the unit square. Longer ones, which few observations like, make sure of what is not known.
constexpr std::array kLengthScales{0.2, 0.4, 0.8};

// Of the function, in the unit of the values' standard deviation: a large one beside much noise is
// a function that the values show well.
constexpr std::array kSignals{0.5, 1.0, 2.0, 4.0};

// Keeps the covariance of repeated points invertible where there is no noise.
constexpr double kJitter = 1e-8;

struct Kernel {
  Point lengths{};
  double signal = 1;
};

double covariance(const Point& a, const Point& b, const Kernel& kernel) {
  double distance = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = (a[i] - b[i]) / kernel.lengths[i];
    distance += difference * difference;
  }
  return kernel.signal * kernel.signal * std::exp(-0.5 * distance);
}

/// Observations of mean 0 and variance 1, and what turns them back.
struct Standardized {
  Eigen::VectorXd values;
  double mean = 0;
  double scale = 1;
};

Standardized standardize(std::span<const Observation> observations) {
  Standardized result;
  result.values.resize(static_cast<Eigen::Index>(observations.size()));
  Eigen::Index place = 0;
  for (const Observation& observation : observations) result.values[place++] = observation.value;
  result.mean = result.values.mean();
  result.values.array() -= result.mean;
  const double variance = result.values.squaredNorm() / static_cast<double>(observations.size());
  if (variance > 0) result.scale = std::sqrt(variance);
  result.values /= result.scale;
  return result;
}

/// The process with one kernel.
struct Fit {
  Kernel kernel;
  Eigen::LLT<Eigen::MatrixXd> factor;
  Eigen::VectorXd weights;
  double log_likelihood = -std::numeric_limits<double>::infinity();
};

Fit fit(std::span<const Observation> observations, const Eigen::VectorXd& values,
        const Kernel& kernel, double noise) {
  const auto count = static_cast<Eigen::Index>(observations.size());
  Eigen::MatrixXd covariances(count, count);
  for (Eigen::Index i = 0; i < count; ++i) {
    for (Eigen::Index j = 0; j < count; ++j) {
      covariances(i, j) = covariance(observations[static_cast<std::size_t>(i)].point,
                                     observations[static_cast<std::size_t>(j)].point, kernel);
    }
  }
  covariances.diagonal().array() += noise * noise + kJitter;
  Fit result;
  result.kernel = kernel;
  result.factor.compute(covariances);
  result.weights = result.factor.solve(values);
  const Eigen::MatrixXd lower = result.factor.matrixL();
  // Without the constant, which is the same for all.
  result.log_likelihood = -0.5 * values.dot(result.weights) - lower.diagonal().array().log().sum();
  return result;
}

Fit fit_best(std::span<const Observation> observations, const Eigen::VectorXd& values,
             double noise) {
  Fit best;
  for (const double first : kLengthScales) {
    for (const double second : kLengthScales) {
      for (const double signal : kSignals) {
        Fit candidate = fit(observations, values, {{first, second}, signal}, noise);
        if (candidate.log_likelihood > best.log_likelihood) best = std::move(candidate);
      }
    }
  }
  return best;
}

}  // namespace

std::vector<Belief> believe(std::span<const Observation> observations,
                            std::span<const Point> points, double noise) {
  if (observations.empty()) return std::vector<Belief>(points.size(), {0.0, 1.0});
  const Standardized standardized = standardize(observations);
  const Fit best = fit_best(observations, standardized.values, noise);
  std::vector<Belief> beliefs;
  beliefs.reserve(points.size());
  const double variance = best.kernel.signal * best.kernel.signal;
  Eigen::VectorXd across(standardized.values.size());
  for (const Point& point : points) {
    Eigen::Index place = 0;
    for (const Observation& observation : observations) {
      across[place++] = covariance(point, observation.point, best.kernel);
    }
    const double explained = best.factor.matrixL().solve(across).squaredNorm();
    beliefs.push_back({standardized.mean + standardized.scale * across.dot(best.weights),
                       standardized.scale * std::sqrt(std::max(0.0, variance - explained))});
  }
  return beliefs;
}

}  // namespace scalecom::autotune
