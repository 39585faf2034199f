#pragma once

#include <rapidcheck.h>

#include <memory>

#include "tests/property/sparse_run.hpp"

namespace scalecom::test {

/// What a property leaves open; the rest is drawn.
struct ScenarioLimits {
  int size_max = 5;
  int steps_max = 8;
  std::size_t tensors_max = 3;
  std::vector<double> betas = {1.0, 0.5, 0.3, 0.1};
  std::vector<DataType> dtypes = {DataType::float32, DataType::float16, DataType::bfloat16};
  std::vector<double> prescales = {1.0, 0.5, 1.0 / 3.0};
  std::vector<CompressionMode> modes = {CompressionMode::cyclic, CompressionMode::sharded};
  std::vector<DataType> values = {DataType::float32, DataType::float16, DataType::bfloat16};
};

/// Draws a run of random gradients. Call it inside of a property.
inline RunOptions draw_scenario(const ScenarioLimits& limits = {}) {
  RunOptions options;
  options.size = *rc::gen::inRange(1, limits.size_max + 1).as("ranks");
  options.steps = *rc::gen::inRange(1, limits.steps_max + 1).as("steps");
  options.first_leader = *rc::gen::inRange(0, options.size).as("first leader");
  options.mode = *rc::gen::elementOf(limits.modes).as("mode");
  options.values = *rc::gen::elementOf(limits.values).as("values");
  options.piece_elements = *rc::gen::element(30, 1 << 21).as("elements in a piece");
  options.round_elements = *rc::gen::element(50, 1 << 22).as("elements in a round");
  options.is_average = *rc::gen::arbitrary<bool>().as("average");
  options.is_in_place = *rc::gen::arbitrary<bool>().as("in place");
  const auto tensors = *rc::gen::inRange<std::size_t>(1, limits.tensors_max + 1).as("tensors");
  for (std::size_t t = 0; t < tensors; ++t) {
    TensorSpec spec;
    spec.count = *rc::gen::oneOf(rc::gen::inRange(0, 40), rc::gen::inRange(0, 900)).as("count");
    spec.rate = *rc::gen::oneOf(rc::gen::inRange(1, 20), rc::gen::inRange(1, 600)).as("rate");
    spec.beta = *rc::gen::elementOf(limits.betas).as("beta");
    spec.dtype = *rc::gen::elementOf(limits.dtypes).as("dtype");
    spec.prescale = *rc::gen::elementOf(limits.prescales).as("prescale");
    options.tensors.push_back(spec);
  }
  const auto seed = *rc::gen::inRange(0u, 1u << 30).as("seed of the gradients");
  const std::vector<TensorSpec> specs = options.tensors;
  options.gradient = [seed, specs](int rank, int step, std::size_t t) {
    return normal_values(seed, rank, step, t, specs[t].count);
  };
  return options;
}

}  // namespace scalecom::test
