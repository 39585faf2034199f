#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <span>
#include <vector>

#include "collective/collectives.hpp"
#include "compress/residual_store.hpp"
#include "runtime/fusion.hpp"
#include "runtime/tensor_queue.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// Told when the first `count` tensors of the batch have their results.
using TensorsDone = std::function<void(std::size_t count)>;

/// Carries out batches. Owns this rank's residuals. Confined to the coordinator's thread.
class Execution {
 public:
  /// `collectives` outlives this object.
  Execution(Collectives& collectives, int rank, int size);

  /// Runs one batch of the agreement. `tensors[i]` is the submission behind
  /// agreement.tensors[batch.tensors[i]]; it is not looked at any more once it is done. Results are
  /// in the tensors' outputs (or tickets) by then. Throws Error when the world fails.
  void run(const Batch& batch, const Agreement& agreement, std::span<PendingTensor* const> tensors,
           const TensorsDone& done, const WaitContext& context);

  ResidualStore& residuals() noexcept { return residuals_; }

  std::int64_t compressed_tensors() const noexcept { return compressed_tensors_; }
  std::int64_t nonfinite_tensors() const noexcept { return nonfinite_tensors_; }

 private:
  void all_reduce_dense(const Batch& batch, std::span<PendingTensor* const> tensors,
                        const TensorsDone& done, const WaitContext& context);
  void all_reduce_sparse(const Batch& batch, const Agreement& agreement,
                         std::span<PendingTensor* const> tensors, const WaitContext& context);
  void all_gather(const AgreedTensor& agreed, PendingTensor& tensor, const WaitContext& context);
  void keep_steps(const Batch& batch, const Agreement& agreement);
  void report_nonfinite(const SparseSlot& slot);

  Collectives& collectives_;
  const int size_;
  const int rank_;
  SparseAllReduce sparse_;
  ResidualStore residuals_;
  std::int64_t compressed_tensors_ = 0;
  std::int64_t nonfinite_tensors_ = 0;
};

}  // namespace scalecom
