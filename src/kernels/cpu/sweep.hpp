#pragma once

#include "base/error.hpp"
#include "kernels/select.hpp"

namespace scalecom::kernels {

/// What a pass over a tensor works on; `residual` has gradient.count elements.
struct SweepArguments {
  float* residual = nullptr;
  Gradient gradient;
  float beta = 1.0f;
  std::size_t chunk = 1;
  std::uint16_t* offsets = nullptr;
  Selected selected;
  /// Elements between those in work and those that are announced to the caches.
  std::size_t prefetch_distance = 0;
};

}  // namespace scalecom::kernels
