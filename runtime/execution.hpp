#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "collective/collectives.hpp"
#include "compress/residual_store.hpp"
#include "runtime/fusion.hpp"
#include "runtime/tensor_queue.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// Carries out batches: packs, reduces, unpacks. Owns the fused buffer and this rank's residuals.
/// Confined to the coordinator's thread.
class Execution {
 public:
  /// `collectives` outlives this object.
  Execution(Collectives& collectives, int rank, int size);

  /// Runs one batch of the agreement. `tensors[i]` is the submission behind
  /// agreement.tensors[batch.tensors[i]]. Results are in the tensors' outputs (or tickets)
  /// afterwards. Throws Error when the world fails.
  void run(const Batch& batch, const Agreement& agreement, std::span<PendingTensor* const> tensors,
           const WaitContext& context);

  ResidualStore& residuals() noexcept { return residuals_; }

  std::int64_t compressed_tensors() const noexcept { return compressed_tensors_; }
  std::int64_t nonfinite_tensors() const noexcept { return nonfinite_tensors_; }

 private:
  void all_reduce_alone(const Batch& batch, PendingTensor& tensor, const WaitContext& context);
  void all_reduce_fused(const Batch& batch, std::span<PendingTensor* const> tensors,
                        const WaitContext& context);
  void all_reduce_sparse(const Batch& batch, const Agreement& agreement,
                         std::span<PendingTensor* const> tensors, const WaitContext& context);
  void all_gather(const AgreedTensor& agreed, PendingTensor& tensor, const WaitContext& context);
  void keep_warmup_steps(const Batch& batch, const Agreement& agreement);
  void report_nonfinite(const SparseSlot& slot);

  Collectives& collectives_;
  const int size_;
  const int rank_;
  SparseAllReduce sparse_;
  ResidualStore residuals_;
  // Grows to the largest batch and stays.
  std::unique_ptr<std::byte[]> fused_;
  std::int64_t fused_capacity_ = 0;
  std::int64_t compressed_tensors_ = 0;
  std::int64_t nonfinite_tensors_ = 0;
};

}  // namespace scalecom
