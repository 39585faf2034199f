#include "runtime/execution.hpp"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <numeric>

#include "base/error.hpp"
#include "base/log.hpp"
#include "kernels/reduce.hpp"

namespace scalecom {
namespace {

using kernels::Scale;

const std::byte* input_of(const PendingTensor& tensor) {
  return static_cast<const std::byte*>(tensor.input.data);
}

std::byte* output_of(const PendingTensor& tensor) {
  return static_cast<std::byte*>(tensor.output.data);
}

Scale input_scale(const TensorSignature& signature) { return Scale{signature.prescale, 1.0}; }

Scale output_scale(const TensorSignature& signature, int size) {
  return Scale{signature.postscale,
               signature.op == ReduceOp::average ? static_cast<double>(size) : 1.0};
}

std::span<std::byte> bytes_of(const TensorView& view) {
  return {static_cast<std::byte*>(view.data), static_cast<std::size_t>(view.bytes())};
}

}  // namespace

Execution::Execution(Collectives& collectives, int rank, int size)
    : collectives_(collectives), size_(size), rank_(rank), sparse_(collectives, rank, size) {}

void Execution::run(const Batch& batch, const Agreement& agreement,
                    std::span<PendingTensor* const> tensors, const TensorsDone& done,
                    const WaitContext& context) {
  PendingTensor& first = *tensors.front();
  switch (batch.kind) {
    case BatchKind::dense_all_reduce:
      all_reduce_dense(batch, tensors, done, context);
      keep_steps(batch, agreement);
      return;
    case BatchKind::sparse_all_reduce: all_reduce_sparse(batch, agreement, tensors, context); break;
    case BatchKind::all_gather:
      all_gather(agreement.tensors[batch.tensors.front()], first, context);
      break;
    case BatchKind::broadcast:
      collectives_.broadcast(bytes_of(first.output), first.signature.root, context);
      break;
    case BatchKind::barrier: break;  // The agreement itself is the barrier.
  }
  done(tensors.size());
}

void Execution::all_reduce_dense(const Batch& batch, std::span<PendingTensor* const> tensors,
                                 const TensorsDone& done, const WaitContext& context) {
  std::vector<Piece> pieces;
  pieces.reserve(tensors.size());
  for (const PendingTensor* tensor : tensors) {
    const TensorSignature& signature = tensor->signature;
    pieces.push_back({input_of(*tensor), output_of(*tensor), tensor->input.count(),
                      input_scale(signature), output_scale(signature, size_)});
  }
  collectives_.all_reduce_pieces(pieces, batch.dtype, batch.op, done, context);
}

void Execution::all_reduce_sparse(const Batch& batch, const Agreement& agreement,
                                  std::span<PendingTensor* const> tensors,
                                  const WaitContext& context) {
  std::vector<SparseSlot> slots;
  slots.reserve(tensors.size());
  for (const PendingTensor* pending : tensors) {
    const PendingTensor& tensor = *pending;
    const TensorSignature& signature = tensor.signature;
    ResidualStore::Entry& residual =
        residuals_.acquire(signature.process_set, tensor.name, signature.shape);
    SparseSlot slot;
    slot.name = tensor.name;
    slot.gradient = input_of(tensor);
    slot.result = output_of(tensor);
    slot.residual = residual.values.data();
    slot.count = tensor.input.count();
    slot.dtype = signature.dtype;
    slot.rate = signature.compression.rate;
    slot.beta = signature.compression.beta;
    slot.prescale = signature.prescale;
    slot.result_scale = output_scale(signature, size_);
    slots.push_back(slot);
  }
  sparse_.run(slots, batch.leader, context);
  keep_steps(batch, agreement);
  compressed_tensors_ += static_cast<std::int64_t>(slots.size());
  for (const SparseSlot& slot : slots) {
    if (slot.went_dense) report_nonfinite(slot);
  }
}

// Warm-up steps, which go dense and leave the residual as it is, count as well: a checkpoint may be
// taken in between.
void Execution::keep_steps(const Batch& batch, const Agreement& agreement) {
  for (const std::size_t place : batch.tensors) {
    const AgreedTensor& agreed = agreement.tensors[place];
    const TensorSignature& signature = agreed.signature;
    if (signature.compression.mode == CompressionMode::none) continue;
    residuals_.acquire(signature.process_set, agreed.name, signature.shape).next_step =
        agreed.step + 1;
  }
}

// Logged at the 1st, 2nd, 4th, 8th... occurrence: a diverged training would flood the log.
void Execution::report_nonfinite(const SparseSlot& slot) {
  ++nonfinite_tensors_;
  if (!std::has_single_bit(static_cast<std::uint64_t>(nonfinite_tensors_))) return;
  log_warning(fmt::format(
      "tensor {}: NaN or Inf in the gradient ({} elements on rank {}); it was all-reduced dense in "
      "this step and its residual kept; {} tensors so far",
      slot.name, slot.nonfinite_count, rank_, nonfinite_tensors_));
}

void Execution::all_gather(const AgreedTensor& agreed, PendingTensor& tensor,
                           const WaitContext& context) {
  SCALECOM_ASSERT(
      static_cast<int>(agreed.first_extents.size()) == size_,
      fmt::format("{}: {} extents for {} ranks", agreed.name, agreed.first_extents.size(), size_));
  TensorView output = tensor.input;
  std::int64_t row_bytes = size_of(output.dtype);
  for (std::size_t axis = 1; axis < output.shape.size(); ++axis) row_bytes *= output.shape[axis];
  std::vector<std::int64_t> bytes_per_rank;
  bytes_per_rank.reserve(agreed.first_extents.size());
  for (const std::int64_t extent : agreed.first_extents) {
    bytes_per_rank.push_back(extent * row_bytes);
  }
  output.shape[0] =
      std::reduce(agreed.first_extents.begin(), agreed.first_extents.end(), std::int64_t{0});
  const auto bytes = static_cast<std::size_t>(output.bytes());
  auto data = std::make_unique_for_overwrite<std::byte[]>(bytes);
  collectives_.all_gather(bytes_of(tensor.input), {data.get(), bytes}, bytes_per_rank, context);
  tensor.ticket->set_output(std::move(data), std::move(output));
}

}  // namespace scalecom
