#pragma once

#include <cstddef>
#include <vector>

#include "compress/residual_store.hpp"
#include "runtime/tensor_queue.hpp"

/// What a tensor that was compressed still owes when it goes dense for good: docs/decisions/0015.
namespace scalecom {

/// Discount by which the dense all-reduce of a tensor takes `residual` along, or 0 where there is
/// nothing to take: in a tensor's warm-up, for other shapes, dtypes and ops than ScaleCom's, and
/// where nobody knows the discount.
double discount_of_delivery(const PendingTensor& tensor, const ResidualStore::Entry& residual);

/// What that all-reduce takes along.
struct Delivery {
  /// Of the tensor's dtype: prescale * gradient + residual / beta, at most `limit`; NaN
  /// where the sum is NaN or Inf.
  std::vector<std::byte> input;
  /// The residual afterwards: what rounding and limit have left. Empty where that is nothing.
  std::vector<float> rest;
  double beta = 0.0;
};

Delivery deliver(const PendingTensor& tensor, const ResidualStore::Entry& residual, double beta,
                 float limit);

/// Whether no element of the tensor's output is NaN or Inf: the same on every rank.
bool has_finite_output(const PendingTensor& tensor);

}  // namespace scalecom
