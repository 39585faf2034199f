#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/negotiation.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// What one batch does. A compressed tensor in its warm-up steps is dense.
enum class BatchKind {
  dense_all_reduce,
  sparse_all_reduce,
  adasum,
  all_gather,
  broadcast,
  barrier,
  reduce_scatter,
  all_to_all
};

const char* to_string(BatchKind kind) noexcept;

/// Tensors that one collective carries together.
struct Batch {
  BatchKind kind = BatchKind::dense_all_reduce;
  DeviceKind device = DeviceKind::host;
  DataType dtype = DataType::float32;  ///< dense_all_reduce, adasum, reduce_scatter
  ReduceOp op = ReduceOp::sum;         ///< as dtype: never average, which is a sum here
  SparsePlan sparse;                   ///< sparse_all_reduce; its leader is step mod world size
  int root = 0;                        ///< broadcast
  std::int64_t bytes = 0;              ///< what the fused buffer holds
  /// Before it, all ranks measure their devices: only what is on one, and once in a session.
  bool measures_device = false;
  std::vector<std::size_t> tensors;  ///< places in Agreement::tensors, in that order
};

/// Gives each compressed tensor the rate of its step (Compression::ramp_steps). Once for an
/// agreement.
void settle_rates(Agreement& agreement);

/// Bytes of one agreed tensor in a fused buffer, the same on every rank: all of it, the selected
/// values of a compressed one, what an all-gather yields, what an all-to-all moves on
/// average for a rank.
std::int64_t fused_bytes(const AgreedTensor& tensor, int world_size);

/// Cuts an agreement into batches of at most `threshold_bytes` (a larger tensor is a batch by
/// itself; 0: no fusion). A tensor is fused with others of the same operation and device, and,
/// where these matter, dtype and op, mode, leader and dtype of the values, or root. Batches are in
/// the order of their first tensor. Pure: every rank gets the same plan from the same agreement.
std::vector<Batch> plan_batches(const Agreement& agreement, int world_size,
                                std::int64_t threshold_bytes);

}  // namespace scalecom
