#pragma once

#include <string>

#include "scalecom/session.hpp"

namespace scalecom {

// Checks of what a caller hands in, before anything is submitted. Each throws
// Error(invalid_argument) that names the tensor, what was got and what is allowed.

void check_all_reduce(const std::string& name, const TensorView& input, const TensorView& output,
                      const AllReduceOptions& options);
void check_all_gather(const std::string& name, const TensorView& input);
void check_broadcast(const std::string& name, const TensorView& tensor, int root, int size);
void check_residual(const Residual& residual);

}  // namespace scalecom
