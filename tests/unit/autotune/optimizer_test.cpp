#include "runtime/autotune/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "tests/support/catch.hpp"

using namespace scalecom::autotune;

namespace {

using Function = std::function<double(const Point&)>;

constexpr std::size_t kSide = 13;
constexpr std::size_t kSamples = 20;

std::vector<Point> grid() {
  std::vector<Point> points;
  for (std::size_t i = 0; i < kSide; ++i) {
    for (std::size_t j = 0; j < kSide; ++j) {
      points.push_back(
          {static_cast<double>(i) / (kSide - 1), static_cast<double>(j) / (kSide - 1)});
    }
  }
  return points;
}

double hill(const Point& at, double x, double y, double width) {
  const double distance = std::pow(at[0] - x, 2) + std::pow(at[1] - y, 2);
  return std::exp(-distance / (2 * width * width));
}

/// Smooth ones with values of 0 to 1.
const std::vector<std::pair<const char*, Function>> kFunctions{
    {"one hill", [](const Point& at) { return hill(at, 0.7, 0.3, 0.3); }},
    {"a ridge", [](const Point& at) { return 1 - std::pow(at[0] - 0.4, 2); }},
    {"a slope to a corner", [](const Point& at) { return (2 * at[0] + at[1]) / 3; }},
    {"two hills", [](const Point& at) {
       return std::max(0.7 * hill(at, 0.2, 0.2, 0.25), hill(at, 0.8, 0.7, 0.25));
     }}};

/// What is lost by the choice after kSamples measurements with normal noise.
double regret(const Function& function, double deviation, std::uint64_t seed,
              const std::function<std::size_t(Optimizer&)>& choose) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> noise(0, deviation);
  const std::vector<Point> points = grid();
  Optimizer optimizer(points, 0, 0.3);
  for (std::size_t i = 0; i < kSamples; ++i) {
    const std::size_t candidate = choose(optimizer);
    optimizer.add(candidate, function(points[candidate]) + noise(random));
  }
  double highest = 0;
  for (const Point& point : points) highest = std::max(highest, function(point));
  return highest - function(points[optimizer.best()]);
}

double regret_of_optimizer(const Function& function, double deviation, std::uint64_t seed) {
  return regret(function, deviation, seed, [](Optimizer& optimizer) { return optimizer.next(); });
}

double regret_of_random_search(const Function& function, double deviation, std::uint64_t seed) {
  std::mt19937_64 random(seed + 1000);
  return regret(function, deviation, seed, [&](Optimizer&) {
    return std::uniform_int_distribution<std::size_t>(0, kSide * kSide - 1)(random);
  });
}

}  // namespace

TEST_CASE("without observations nothing is known") {
  const std::vector<Belief> beliefs = believe({}, std::vector<Point>{{0, 0}, {1, 1}}, 0.5);
  REQUIRE(beliefs.size() == 2);
  CHECK(beliefs[1].mean == 0);
  CHECK(beliefs[1].deviation == 1);
}

TEST_CASE("without noise the process goes through its observations and is unsure elsewhere") {
  const std::vector<Observation> seen{
      {{0.1, 0.1}, 3.0}, {{0.9, 0.2}, 5.0}, {{0.2, 0.8}, 4.0}, {{0.8, 0.9}, 1.0}};
  std::vector<Point> points{{0.5, 0.5}};
  for (const Observation& observation : seen) points.push_back(observation.point);
  const std::vector<Belief> beliefs = believe(seen, points, 0.0);
  for (std::size_t i = 0; i < seen.size(); ++i) {
    CHECK(beliefs[i + 1].mean == Approx(seen[i].value).margin(1e-3));
    CHECK(beliefs[i + 1].deviation < 1e-3);
    CHECK(beliefs[0].deviation > 10 * beliefs[i + 1].deviation);
  }
}

TEST_CASE("with noise it trusts many observations of a point more than one") {
  std::vector<Observation> seen{{{0.1, 0.1}, 2.0}};
  for (int i = 0; i < 8; ++i) seen.push_back({{0.9, 0.9}, i % 2 == 0 ? 0.9 : 1.1});
  const auto beliefs = believe(seen, std::vector<Point>{{0.1, 0.1}, {0.9, 0.9}}, 0.8);
  CHECK(beliefs[0].deviation > 1.5 * beliefs[1].deviation);
  CHECK(beliefs[1].mean == Approx(1.0).margin(0.05));
  CHECK(beliefs[0].mean < 1.95);  // Not all of its lead is believed.
  CHECK(beliefs[0].mean > 1.1);
}

TEST_CASE("equal observations, and the same one again without noise, are no trouble") {
  const std::vector<Observation> seen(5, {{0.5, 0.5}, 7.0});
  for (const double noise : {0.0, 0.8}) {
    const auto beliefs = believe(seen, std::vector<Point>{{0.5, 0.5}, {0.0, 0.0}}, noise);
    for (const Belief& belief : beliefs) {
      CHECK(belief.mean == Approx(7.0));
      CHECK(std::isfinite(belief.deviation));
    }
  }
}

TEST_CASE("the expected improvement of a normal value has its known values") {
  // E max(0, X) of a standard normal X is 1 / sqrt(2 pi).
  CHECK(expected_improvement({0.0, 1.0}, 0.0) == Approx(0.398942).epsilon(1e-5));
  CHECK(expected_improvement({1.0, 2.0}, 0.0) == Approx(1.395594).epsilon(1e-4));
  CHECK(expected_improvement({-8.0, 1.0}, 0.0) == Approx(0.0).margin(1e-12));
  CHECK(expected_improvement({3.0, 0.0}, 1.0) == 2.0);
  CHECK(expected_improvement({1.0, 0.0}, 3.0) == 0.0);
}

TEST_CASE("the first candidate is measured first, then some in all parts of the square") {
  const std::vector<Point> points = grid();
  Optimizer optimizer(points, 3, 0.5);
  CHECK(optimizer.best() == 3);
  CHECK(optimizer.next() == 3);
  std::vector<Point> measured;
  for (int i = 0; i < 7; ++i) {
    const std::size_t candidate = optimizer.next();
    measured.push_back(points[candidate]);
    optimizer.add(candidate, 1.0);
  }
  for (const Point& point : points) {
    double nearest = 2;
    for (const Point& seen : measured) {
      nearest = std::min(nearest, std::hypot(point[0] - seen[0], point[1] - seen[1]));
    }
    CHECK(nearest < 0.5);
  }
}

TEST_CASE("a candidate alone is the only choice") {
  Optimizer optimizer({{0.5, 0.5}}, 0, 0.8);
  for (int i = 0; i < 6; ++i) {
    CHECK(optimizer.next() == 0);
    optimizer.add(0, i);
    CHECK(optimizer.best() == 0);
  }
}

TEST_CASE("equal scores lead to equal choices") {
  for (const auto& [name, function] : kFunctions) {
    std::vector<std::size_t> choices[2];
    for (auto& chosen : choices) {
      regret(function, 0.05, 7, [&chosen](Optimizer& optimizer) {
        chosen.push_back(optimizer.next());
        return chosen.back();
      });
    }
    CHECK(choices[0] == choices[1]);
  }
}

TEST_CASE("without noise the highest point of a smooth function is found") {
  for (const auto& [name, function] : kFunctions) {
    INFO(name);
    CHECK(regret_of_optimizer(function, 0.0, 1) < 0.02);
  }
}

TEST_CASE("with noise it comes close, and closer than random search with as many samples") {
  constexpr int kSeeds = 20;
  double sum = 0;
  double sum_of_random = 0;
  for (const auto& [name, function] : kFunctions) {
    double mine = 0;
    double random = 0;
    for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
      mine += regret_of_optimizer(function, 0.1, seed) / kSeeds;
      random += regret_of_random_search(function, 0.1, seed) / kSeeds;
    }
    INFO(name << ": " << mine << ", random search " << random);
    CHECK(mine < 0.08);
    sum += mine;
    sum_of_random += random;
  }
  CHECK(sum < 0.5 * sum_of_random);
}
