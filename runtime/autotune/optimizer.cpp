#include "runtime/autotune/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "base/error.hpp"

namespace scalecom::autotune {
namespace {

// Measured before the model has a say, the first among them: fewer leave hills unseen.
constexpr std::size_t kSpread = 7;

// Element `i` of the van der Corput sequence.
double radical_inverse(std::size_t i, std::size_t base) {
  double value = 0;
  double digit = 1;
  for (; i > 0; i /= base) {
    digit /= static_cast<double>(base);
    value += digit * static_cast<double>(i % base);
  }
  return value;
}

double squared_distance(const Point& a, const Point& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

template <class Score>
std::size_t largest(std::size_t count, const Score& score) {
  std::size_t best = 0;
  double best_score = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < count; ++i) {
    const double here = score(i);
    if (here <= best_score) continue;
    best = i;
    best_score = here;
  }
  return best;
}

}  // namespace

double expected_improvement(const Belief& belief, double best) noexcept {
  const double gain = belief.mean - best;
  if (belief.deviation <= 0) return std::max(gain, 0.0);
  const double z = gain / belief.deviation;
  const double density = std::exp(-0.5 * z * z) / std::sqrt(2 * std::numbers::pi);
  const double probability = 0.5 * std::erfc(-z / std::numbers::sqrt2);
  return gain * probability + belief.deviation * density;
}

Optimizer::Optimizer(std::vector<Point> candidates, std::size_t first, double noise)
    : candidates_(std::move(candidates)), first_(first), noise_(noise) {
  SCALECOM_ASSERT(first_ < candidates_.size(), "the first candidate is none of them");
}

std::size_t Optimizer::next() const {
  if (observations_.empty()) return first_;
  if (observations_.size() < kSpread) return spread();
  const std::vector<Belief> beliefs = believe(observations_, candidates_, noise_);
  const double best = beliefs[this->best()].mean;
  return largest(candidates_.size(),
                 [&](std::size_t i) { return expected_improvement(beliefs[i], best); });
}

// The Halton sequence covers the square evenly from its start.
std::size_t Optimizer::spread() const {
  const std::size_t place = observations_.size();
  const Point wanted{radical_inverse(place, 2), radical_inverse(place, 3)};
  return largest(candidates_.size(),
                 [&](std::size_t i) { return -squared_distance(candidates_[i], wanted); });
}

void Optimizer::add(std::size_t candidate, double value) {
  SCALECOM_ASSERT(candidate < candidates_.size(), "no such candidate");
  measured_.push_back(candidate);
  observations_.push_back({candidates_[candidate], value});
}

std::size_t Optimizer::best() const {
  if (observations_.empty()) return first_;
  std::vector<Point> points;
  for (const Observation& observation : observations_) points.push_back(observation.point);
  const std::vector<Belief> beliefs = believe(observations_, points, noise_);
  return measured_[largest(beliefs.size(), [&](std::size_t i) { return beliefs[i].mean; })];
}

}  // namespace scalecom::autotune
