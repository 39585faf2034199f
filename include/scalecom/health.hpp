#pragma once

#include <cstdint>
#include <string>

namespace scalecom {

/// How one compressed tensor did in the last of its steps that was sampled (SCALECOM_HEALTH_STEPS),
/// as estimated from some of its chunks; formulas in docs/algorithms.md. The ranks' m, g and p = m
/// + g are those of this step, `sent` is what a rank sent of p.
struct CompressionHealth {
  std::string name;
  std::int64_t step = 0;
  std::int64_t elements = 0;  ///< of the tensor
  std::int64_t rate = 0;      ///< chunk length in this step
  /// Times that the guard has halved the chunk length, at the latest two steps from this one (ten
  /// on a CUDA device).
  std::int64_t halvings = 0;
  std::int64_t sampled_chunks = 0;
  /// ||p - sent|| / ||p||, 0 to 1: on this rank, and the mean over the ranks.
  double relative_error = 0.0;
  double mean_relative_error = 0.0;
  /// ||m|| / ||g|| after the step: on this rank, and the mean over the ranks. Infinite where g is 0
  /// and m is not.
  double residual_to_gradient = 0.0;
  double mean_residual_to_gradient = 0.0;
  /// d/k: the part of the k selected elements that are not among the k largest of the mean p.
  double hamming_distance = 0.0;
  /// Part of the chunks in which the largest element of the mean p was selected: 1 is what a leader
  /// that knew the mean would reach.
  double chunk_overlap = 0.0;
  /// Bytes of a dense float32 all-reduce over those of this step, with offsets.
  double byte_true_rate = 0.0;
};

}  // namespace scalecom
