#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// What a rank learns of one tensor in a sampled step. Vocabulary: SparseAllReduce. All but
/// byte_true_rate() is of the sampled chunks (sampled_chunks()) only.
struct TensorHealth {
  std::int64_t sampled_chunks = 0;
  std::int64_t sampled_elements = 0;
  /// ||p - sent|| / ||p|| of this rank; 0 where p is 0.
  double relative_error = 0.0;
  /// ||m|| / ||g|| of this rank, m after the step; 0 where both are 0, infinite where g alone is.
  double residual_to_gradient = 0.0;
  /// The same two, averaged over the ranks.
  double mean_relative_error = 0.0;
  double mean_residual_to_gradient = 0.0;
  /// d: selected coordinates that are not among the k of the largest |mean of p over the ranks|,
  /// k = sampled_chunks. Both sets have k elements, so 2 d are in one of them only, and d/k is the
  /// Hamming distance of the paper (Chen et al., NeurIPS 2020). Of equal magnitudes
  /// those count as the largest that were selected.
  std::int64_t missed = 0;
  /// Chunks whose largest |mean of p| was selected: all of them, had the leader known the mean.
  std::int64_t best_chunks = 0;
};

/// The chunks that a sampled step looks at, in rising order: one at random from each of so many
/// equal parts of the tensor. An eighth of them, but at least 8 and at most 32, and at most 65,536
/// elements (256 KiB of float32 on the wire) or one chunk. From (count, rate, step) alone, so all
/// ranks have the same.
std::vector<std::int64_t> sampled_chunks(std::int64_t count, std::int64_t rate, std::int64_t step);

/// Bytes of a dense float32 all-reduce over those of a ScaleCom step, its offsets and the flag
/// included: 4 N 2(n-1)/n against (2 (b k + 1) + o k)(n-1)/n that a rank sends on average, with b
/// and o bytes a value and an offset (docs/algorithms.md). Computed, since tensors travel together:
/// the same for every n and mode.
double byte_true_rate(std::int64_t count, std::int64_t rate, DataType values);

/// A tensor that a rank has looked at, with its own figures.
struct LookedAt {
  TensorHealth health;                 ///< all but what the other ranks know
  std::size_t chunk = 0;               ///< C; the last chunk may be short
  std::vector<std::uint16_t> offsets;  ///< of the sampled chunks
};

/// All of its health; `sums`, over `size` ranks, are p of the sampled elements and behind them
/// relative error and residual to gradient.
TensorHealth health_from_sums(const LookedAt& tensor, std::span<const float> sums, int size);

/// One rank's SparseLook at a batch: add() the
/// tensors, the same on all ranks; sum data() over the ranks; read health(). Confined to one
/// thread; its memory grows to the largest sample.
class HealthSample {
 public:
  /// `choice` is the slot's; it is finite on all ranks. `step` is the tensor's agreed one.
  ///
  /// Computes p and p - sent from what the sweep has left (kernels/sampled_element.hpp).
  void add(const SparseSlot& slot, const SparseChoice& choice, std::int64_t step);

  /// float32.
  std::span<std::byte> data() { return std::as_writable_bytes(std::span(values_)); }
  /// Of each tensor added, once data() is the sum over `size` ranks.
  std::vector<TensorHealth> health(int size) const;

 private:
  std::vector<LookedAt> tensors_;
  std::vector<float> values_;  ///< of each, what health_from_sums() wants
  std::vector<float> gradient_;
};

}  // namespace scalecom
