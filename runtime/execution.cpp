#include "runtime/execution.hpp"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

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

// While a batch keeps moving, the rest of the world is looked at this often.
constexpr auto kLookAroundPeriod = std::chrono::microseconds(50);

std::int64_t sum_of(std::span<const std::int64_t> values) {
  return std::reduce(values.begin(), values.end(), std::int64_t{0});
}

// Bytes of so many rows of `like`, which has a first dimension.
std::vector<std::int64_t> bytes_of_rows(std::span<const std::int64_t> rows,
                                        const TensorView& like) {
  std::int64_t row_bytes = size_of(like.dtype);
  for (std::size_t axis = 1; axis < like.shape.size(); ++axis) row_bytes *= like.shape[axis];
  std::vector<std::int64_t> bytes;
  bytes.reserve(rows.size());
  for (const std::int64_t count : rows) bytes.push_back(count * row_bytes);
  return bytes;
}

bool has_steps(BatchKind kind) {
  return kind == BatchKind::dense_all_reduce || kind == BatchKind::sparse_all_reduce;
}

// A result that its ticket will own: as `like`, but with `rows` rows.
class Output {
 public:
  Output(const TensorView& like, std::int64_t rows) : view_(like) {
    view_.shape[0] = rows;
    data_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(view_.bytes()));
    view_.data = data_.get();
  }

  const TensorView& view() const noexcept { return view_; }
  std::span<std::byte> bytes() const { return bytes_of(view_); }
  void give_to(TicketState& ticket, std::vector<std::int64_t> received_splits = {}) {
    ticket.set_output(std::move(data_), std::move(view_), std::move(received_splits));
  }

 private:
  std::unique_ptr<std::byte[]> data_;
  TensorView view_;
};

}  // namespace

Execution::Execution(Collectives& collectives, int rank, int size, TensorsDone done)
    : collectives_(collectives),
      size_(size),
      rank_(rank),
      done_(std::move(done)),
      sparse_(collectives, rank, size) {}

void Execution::start(Batch batch, std::shared_ptr<const Agreement> agreement,
                      std::vector<PendingTensor*> tensors, const WaitContext& context) {
  const bool is_dense = batch.kind == BatchKind::dense_all_reduce;
  finish(is_dense ? kBatchesMax - 1 : 0);
  under_way_.push_back({std::move(batch), std::move(agreement), std::move(tensors), context});
  BatchUnderWay& work = under_way_.back();
  if (is_dense) return start_dense(work);
  try {
    run(work);
  } catch (const Error& error) {
    fail(work, error);
  }
  complete(work, work.tensors.size());
  under_way_.pop_back();
}

void Execution::progress(const std::function<bool()>& is_enough) {
  if (is_enough()) return;
  WaitContext context = under_way_.front().context;
  WaitLoop loop(context);
  TimePoint looked_around = Clock::now();
  while (!is_enough()) {
    context = under_way_.front().context;
    try {
      if (!advance()) {
        const auto time = loop.pause_or_sleep_time("all-reduce");
        if (time.count() > 0) collectives_.wait_for_change(time);
        continue;
      }
      loop.restart();
      // The next agreement is not to wait for a batch that keeps moving.
      if (const TimePoint now = Clock::now(); now - looked_around >= kLookAroundPeriod) {
        looked_around = now;
        if (context.interrupt != nullptr) context.interrupt->check();
      }
    } catch (const Error& error) {
      if (under_way_.empty()) throw;  // What ended in the same moment is not to blame.
      fail(under_way_.front(), error);
    }
  }
}

bool Execution::advance() {
  const bool has_moved = collectives_.advance(under_way_.front().context);
  while (under_way_.size() > collectives_.under_way()) under_way_.pop_front();
  return has_moved;
}

void Execution::complete(BatchUnderWay& work, std::size_t count) {
  const std::span<PendingTensor* const> tensors(work.tensors);
  if (count == work.tensors.size()) {
    ++batches_executed_;
    if (has_steps(work.batch.kind)) keep_steps(work.batch, *work.agreement);
  }
  done_(tensors.subspan(work.done, count - work.done));
  work.done = count;
}

void Execution::fail(const BatchUnderWay& work, const Error& error) const {
  const std::string& first = work.agreement->tensors[work.batch.tensors.front()].name;
  throw Error(error.code(),
              fmt::format("{} of {} tensors (first: {}): {}", to_string(work.batch.kind),
                          work.tensors.size(), first, error.what()));
}

std::size_t Execution::agreements_under_way(const Agreement* other) const noexcept {
  std::size_t count = 0;
  for (const BatchUnderWay& work : under_way_) {
    const Agreement* agreement = work.agreement.get();
    if (agreement != other) ++count;
    other = agreement;
  }
  return count;
}

void Execution::run(const BatchUnderWay& work) {
  const Batch& batch = work.batch;
  const AgreedTensor& agreed = work.agreement->tensors[batch.tensors.front()];
  PendingTensor& first = *work.tensors.front();
  switch (batch.kind) {
    case BatchKind::sparse_all_reduce:
      return all_reduce_sparse(batch.leader, work.tensors, work.context);
    case BatchKind::all_gather: return all_gather(agreed, first, work.context);
    case BatchKind::broadcast:
      return collectives_.broadcast(bytes_of(first.output), first.signature.root, work.context);
    case BatchKind::reduce_scatter: return reduce_scatter(batch, first, work.context);
    case BatchKind::all_to_all: return all_to_all(agreed, first, work.context);
    case BatchKind::barrier: return;  // The agreement itself is the barrier.
    case BatchKind::dense_all_reduce: break;
  }
  SCALECOM_ASSERT(false, "dense all-reduces go on in the background");
}

void Execution::start_dense(BatchUnderWay& work) {
  AllReduceBatch all_reduce;
  all_reduce.dtype = work.batch.dtype;
  all_reduce.op = work.batch.op;
  all_reduce.pieces.reserve(work.tensors.size());
  for (const PendingTensor* tensor : work.tensors) {
    const TensorSignature& signature = tensor->signature;
    all_reduce.pieces.push_back({input_of(*tensor), output_of(*tensor), tensor->input.count(),
                                 input_scale(signature), output_scale(signature, size_)});
  }
  all_reduce.done = [this, &work](std::size_t count) { complete(work, count); };
  collectives_.start_all_reduce(std::move(all_reduce));
}

void Execution::all_reduce_sparse(int leader, std::span<PendingTensor* const> tensors,
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
  sparse_.run(slots, leader, context);
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
  Output output(tensor.input, sum_of(agreed.first_extents));
  collectives_.all_gather(bytes_of(tensor.input), output.bytes(),
                          bytes_of_rows(agreed.first_extents, tensor.input), context);
  output.give_to(*tensor.ticket);
}

// The first dimension is cut as evenly as can be, the first ranks get one row more.
void Execution::reduce_scatter(const Batch& batch, PendingTensor& tensor,
                               const WaitContext& context) {
  const std::int64_t rows = tensor.input.shape[0];
  std::vector<std::int64_t> rows_per_rank(static_cast<std::size_t>(size_), rows / size_);
  for (std::int64_t rank = 0; rank < rows % size_; ++rank) {
    ++rows_per_rank[static_cast<std::size_t>(rank)];
  }
  const auto bytes_per_rank = bytes_of_rows(rows_per_rank, tensor.input);
  const auto own = static_cast<std::size_t>(rank_);
  const std::span<std::byte> data = scratch_.acquire(static_cast<std::size_t>(batch.bytes));
  kernels::scale_copy(data.data(), input_of(tensor), tensor.input.count(), batch.dtype,
                      input_scale(tensor.signature));
  collectives_.reduce_scatter(data, bytes_per_rank, batch.dtype, batch.op, context);
  const std::byte* part =
      data.data() + sum_of(std::span<const std::int64_t>(bytes_per_rank).first(own));
  Output output(tensor.input, rows_per_rank[own]);
  kernels::scale_copy(output.bytes().data(), part, output.view().count(), batch.dtype,
                      output_scale(tensor.signature, size_));
  output.give_to(*tensor.ticket);
}

void Execution::all_to_all(const AgreedTensor& agreed, PendingTensor& tensor,
                           const WaitContext& context) {
  const auto size = static_cast<std::size_t>(size_);
  SCALECOM_ASSERT(
      agreed.first_extents.size() == size * size,
      fmt::format("{}: {} splits for {} ranks", agreed.name, agreed.first_extents.size(), size_));
  std::vector<std::int64_t> received_splits;
  for (std::size_t from = 0; from < size; ++from) {
    received_splits.push_back(agreed.first_extents[from * size + static_cast<std::size_t>(rank_)]);
  }
  Output output(tensor.input, sum_of(received_splits));
  collectives_.all_to_all(bytes_of(tensor.input), bytes_of_rows(tensor.splits, tensor.input),
                          output.bytes(), bytes_of_rows(received_splits, tensor.input), context);
  output.give_to(*tensor.ticket, std::move(received_splits));
}

}  // namespace scalecom
