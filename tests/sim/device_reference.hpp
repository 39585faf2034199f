#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tests/sim/device_plan.hpp"

/// What each rank gets of a tensor, by the host's kernels and without any collective.
namespace scalecom::sim {

using Residuals = std::vector<std::vector<float>>;

/// An all-reduce's, every rank's.
Bytes dense_result(const TensorSignature& signature, const std::vector<Bytes>& inputs);

/// A ScaleCom all-reduce's in call number `step` of the tensor, every rank's. `residuals` become
/// those behind it.
Bytes compressed_result(const TensorSignature& signature, std::size_t step,
                        const std::vector<std::size_t>& host_of_rank,
                        const std::vector<Bytes>& inputs, Residuals& residuals);

/// A reduce-scatter's, by rank.
std::vector<Bytes> scattered_results(const TensorSignature& signature,
                                     const std::vector<Bytes>& inputs);

/// An all-to-all's, by rank. `rows` are those of each rank for each rank.
std::vector<Bytes> exchanged_results(const TensorSignature& signature,
                                     std::span<const std::int64_t> rows,
                                     const std::vector<Bytes>& inputs);

/// Of one row.
std::size_t row_bytes_of(const TensorSignature& signature);

}  // namespace scalecom::sim
