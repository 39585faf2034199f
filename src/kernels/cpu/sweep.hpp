#pragma once

#include "base/error.hpp"
#include "kernels/select.hpp"

namespace scalecom::kernels {

/// What every pass over a whole tensor reads; `memory` has gradient.count elements.
struct SweepArguments {
  float* memory = nullptr;
  Gradient gradient;
  float beta = 1.0f;
};

}  // namespace scalecom::kernels
