#pragma once

#include "base/error.hpp"
#include "kernels/select.hpp"

namespace scalecom::kernels {

/// What a pass over a tensor works on; `memory` has gradient.count elements.
struct SweepArguments {
  float* memory = nullptr;
  Gradient gradient;
  float beta = 1.0f;
  std::size_t chunk = 1;
  std::uint16_t* offsets = nullptr;
  Selected selected;
};

}  // namespace scalecom::kernels
