#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "collective/cost_model.hpp"
#include "scalecom/explanation.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// What compressed tensors are planned by; the same on all ranks.
struct PlanCosts {
  int ranks = 1;
  std::int64_t fusion_threshold_bytes = 0;
  bool overlaps = false;  ///< exchanges go on while a rank computes: those between hosts
  KernelCosts kernels;
  /// A tensor goes in rounds of so many elements, where it does (SparseOptions).
  std::int64_t round_elements = SparseOptions{}.round_elements;
  /// Why automatic is dense whatever the times; empty: it is what takes less.
  std::string why_dense = {};
  std::function<double(std::int64_t bytes)> all_reduce_time_s;
};

/// Chooses and explains (docs/algorithms.md, "Dense or compressed"). `compression` is checked, its
/// mode not by_setting; that of the result is not automatic either, but what that comes to. Pure:
/// all ranks find the same.
CompressionExplanation plan_compression(std::int64_t count, DataType dtype,
                                        const Compression& compression, const PlanCosts& costs);

}  // namespace scalecom
