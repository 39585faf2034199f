#pragma once

#include <cstddef>

#include "kernels/scale_method.hpp"

namespace scalecom::kernels {

struct ScaleArguments {
  std::byte* destination = nullptr;
  const std::byte* source = nullptr;
  std::size_t count = 0;
  DataType dtype = DataType::float32;
  Scale scale;
  ScaleMethod method = ScaleMethod::in_double;
};

}  // namespace scalecom::kernels
