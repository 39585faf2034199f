#pragma once

#include "compress/residual_store.hpp"
#include "runtime/tensor_queue.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// A compressed tensor's residual for a step as agreed: with its discount, and not zero from here
/// on.
ResidualStore::Entry& residual_for_step(ResidualStore& residuals, const PendingTensor& tensor,
                                        const TensorSignature& agreed);

/// The tensor's part in a ScaleCom batch of `size` ranks.
SparseSlot sparse_slot(const PendingTensor& tensor, const TensorSignature& agreed, float* residual,
                       int size);

}  // namespace scalecom
