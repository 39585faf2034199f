#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "scalecom/compression.hpp"
#include "scalecom/tensor.hpp"
#include "sparse/sparse_all_reduce.hpp"
#include "tests/unit/kernels/samples.hpp"

namespace scalecom::test {

using Values = std::vector<double>;

/// One tensor of every batch of a run.
struct TensorSpec {
  std::int64_t count = 0;
  std::int64_t rate = 1;
  double beta = 1.0;
  DataType dtype = DataType::float32;
  double prescale = 1.0;
};

/// What one rank saw of one tensor in one step.
struct TensorStep {
  Values gradient;  ///< as the rank submitted it, rounded to the dtype
  Values result;    ///< what the optimizer gets
  std::vector<std::byte> result_bytes;
  std::vector<std::size_t> selected;  ///< coordinates, from the offsets that were shared
  std::vector<float> sent;      ///< this rank's values on them, as they went into the all-reduce
  std::vector<float> residual;  ///< after the step
  std::int64_t nonfinite_count = 0;
  bool went_dense = false;
};

struct RankStep {
  std::vector<TensorStep> tensors;
  std::size_t offset_bytes = 0;            ///< of all ranks together
  std::vector<std::size_t> reduced_bytes;  ///< of values, of flags
};

struct RunOptions {
  int size = 1;
  int steps = 1;
  int first_leader = 0;
  CompressionMode mode = CompressionMode::cyclic;
  DataType values = DataType::float32;  ///< on the wire
  std::int64_t round_elements = 1 << 22;
  std::int64_t piece_elements = 1 << 21;
  bool is_average = true;
  bool is_in_place = true;
  std::vector<TensorSpec> tensors;
  /// Gradient of (rank, step, tensor), before it is rounded to the tensor's dtype.
  std::function<Values(int, int, std::size_t)> gradient;
};

/// `values` rounded to `dtype`.
RawTensor raw_of(const Values& values, DataType dtype);

/// A tensor of a batch, whose result takes the gradient's place if the options say so.
SparseSlot slot_of(const RunOptions& options, const TensorSpec& spec, RawTensor& gradient,
                   RawTensor& result, std::vector<float>& residual);

/// Who selects in a chunk of a tensor. Cyclic: (first_leader + step) mod size. Sharded: the
/// tensor's elements are cut in `size` equal shards, a chunk is of the shard its first element is
/// in, and rank r has the shard (r + first_leader + step) mod size.
int leader_of(const RunOptions& options, int step, std::size_t tensor, std::size_t chunk);

/// record[rank][step]. Ranks are threads over the loopback transport.
using Run = std::vector<std::vector<RankStep>>;
Run run_sparse(const RunOptions& options);

/// The dense all-reduce of the same gradients, as the runtime does it: [tensor] of step `step`.
std::vector<Values> run_dense(const RunOptions& options, int step);

/// Steps 1 to 5 of CLT-k in float64, from the definition. Follows the selection of the run, because
/// float32 may break a tie otherwise, and checks that it is one that the definition allows. Returns
/// the first difference, or "".
std::string difference_to_reference(const RunOptions& options, const Run& run);

/// Greatest error of a value of about 1 after it is rounded to `dtype`.
double rounding_of(DataType dtype);

/// Normal values from a seed, the same for equal arguments.
Values normal_values(unsigned seed, int rank, int step, std::size_t tensor, std::int64_t count);

}  // namespace scalecom::test
