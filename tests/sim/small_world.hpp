#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/sim/world.hpp"

namespace scalecom::sim {

/// A world for one rule of the negotiation with a known outcome: every hop takes 20 us.
inline WorldOptions steady(int size) {
  WorldOptions options;
  options.size = size;
  options.delay_min = options.delay_max = std::chrono::microseconds(20);
  options.negotiation.steady_steps = 0;
  return options;
}

inline TensorSignature all_reduce(Shape shape = {4}) {
  TensorSignature signature;
  signature.shape = std::move(shape);
  return signature;
}

inline TensorSignature compressed(std::int64_t first_step = 0) {
  TensorSignature signature = all_reduce({1000});
  signature.compression.mode = CompressionMode::cyclic;
  signature.first_step = first_step;
  return signature;
}

inline void submit_everywhere(World& world, const std::string& name,
                              const TensorSignature& signature) {
  for (int rank = 0; rank < world.size(); ++rank) world.submit(rank, name, signature);
}

using Log = std::vector<std::string>;

}  // namespace scalecom::sim
