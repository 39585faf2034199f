#pragma once

#include <cstdint>
#include <functional>

#include "collective/cost_model.hpp"
#include "scalecom/explanation.hpp"

namespace scalecom {

/// What compressed tensors are planned by; the same on all ranks.
struct PlanCosts {
  int ranks = 1;
  std::int64_t fusion_threshold_bytes = 0;
  bool overlaps = false;  ///< exchanges go on while a rank computes: those between hosts
  KernelCosts kernels;
  std::function<double(std::int64_t bytes)> all_reduce_time_s;
};

/// Chooses and explains (docs/algorithms.md, "Dense or compressed"). `compression` is checked, its
/// mode none, cyclic, sharded or automatic; the mode of the result is one of the first three. Pure:
/// all ranks find the same.
CompressionExplanation plan_compression(std::int64_t count, DataType dtype,
                                        const Compression& compression, const PlanCosts& costs);

}  // namespace scalecom
