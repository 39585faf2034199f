#include "runtime/execution.hpp"

#include <fmt/format.h>

#include <bit>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "runtime/tensor_scales.hpp"

namespace scalecom {
namespace {

const std::byte* input_of(const PendingTensor& tensor) {
  return static_cast<const std::byte*>(tensor.input.data);
}

std::byte* output_of(const PendingTensor& tensor) {
  return static_cast<std::byte*>(tensor.output.data);
}

std::span<std::byte> bytes_of(const TensorView& view) {
  return {static_cast<std::byte*>(view.data), static_cast<std::size_t>(view.bytes())};
}

// While a batch keeps moving, the rest of the world is looked at this often.
constexpr auto kLookAroundPeriod = std::chrono::microseconds(50);

SparseOptions sparse_options(WorkerPool& workers) {
  SparseOptions options;
  options.loop = [&workers](std::size_t count, const std::function<void(std::size_t)>& body) {
    workers.run(count, body);
  };
  return options;
}

bool has_steps(BatchKind kind) {
  return kind == BatchKind::dense_all_reduce || kind == BatchKind::sparse_all_reduce;
}

}  // namespace

Execution::Execution(Collectives& collectives, int rank, int size, int threads, TensorsDone done)
    : collectives_(collectives),
      size_(size),
      rank_(rank),
      done_(std::move(done)),
      workers_(threads),
      sparse_(collectives, rank, size, sparse_options(workers_)),
      parts_(collectives, rank, size) {}

void Execution::start(Batch batch, std::shared_ptr<const Agreement> agreement,
                      std::vector<PendingTensor*> tensors, const WaitContext& context) {
  const bool is_dense = batch.kind == BatchKind::dense_all_reduce;
  under_way_.push_back({std::move(batch), std::move(agreement), std::move(tensors), context});
  BatchUnderWay& work = under_way_.back();
  work.is_void = is_void(*work.agreement);
  if (is_dense) return start_dense(work);
  try {
    run(work);
  } catch (const Error& error) {
    fail(work, error);
  }
  if (!work.is_void) complete(work, work.tensors.size());
  under_way_.pop_back();
}

bool Execution::goes_in_steps(const Batch& batch) const noexcept {
  return batch.kind == BatchKind::barrier ||
         (batch.kind == BatchKind::dense_all_reduce && collectives_.goes_in_steps());
}

void Execution::revoke(std::uint64_t first_void, std::uint64_t end) {
  first_void_ = first_void;
  end_of_void_ = end;
  for (std::size_t i = 0; i < under_way_.size(); ++i) {
    BatchUnderWay& work = under_way_[i];
    if (!is_void(*work.agreement)) continue;
    work.is_void = true;
    if (work.batch.kind == BatchKind::dense_all_reduce) collectives_.discard(i);
  }
  collectives_.release();
}

void Execution::progress(const std::function<bool()>& is_enough) {
  TimePoint looked_around = Clock::now();
  while (!is_enough()) {
    context_ = under_way_.front().context;
    try {
      if (!advance()) {
        collectives_.pause(wait_, "all-reduce");
        continue;
      }
      wait_.restart();
      // The next agreement is not to wait for a batch that keeps moving.
      if (const TimePoint now = Clock::now(); now - looked_around >= kLookAroundPeriod) {
        looked_around = now;
        if (context_.interrupt != nullptr) context_.interrupt->check();
      }
    } catch (const Error& error) {
      if (under_way_.empty()) throw;  // What ended in the same moment is not to blame.
      fail(under_way_.front(), error);
    }
  }
}

bool Execution::advance() {
  const auto drop_done = [this] {
    while (under_way_.size() > collectives_.under_way()) under_way_.pop_front();
  };
  try {
    const bool has_moved = collectives_.advance(under_way_.front().context);
    drop_done();
    return has_moved;
  } catch (const Error&) {
    drop_done();
    throw;
  }
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
  const Agreement* last = nullptr;
  for (const BatchUnderWay& work : under_way_) {
    const Agreement* agreement = work.agreement.get();
    if (agreement != other && agreement != last) ++count;
    last = agreement;
  }
  return count;
}

void Execution::run(const BatchUnderWay& work) {
  const Batch& batch = work.batch;
  std::vector<const AgreedTensor*> agreed;
  for (const std::size_t place : batch.tensors) agreed.push_back(&work.agreement->tensors[place]);
  switch (batch.kind) {
    case BatchKind::sparse_all_reduce:
      return work.is_void ? join_sparse(work) : all_reduce_sparse(work);
    case BatchKind::all_gather: return parts_.all_gather(agreed, work.tensors, work.context);
    case BatchKind::broadcast: return broadcast(batch.root, work.tensors, work.context);
    case BatchKind::reduce_scatter: return parts_.reduce_scatter(batch, work.tensors, work.context);
    case BatchKind::all_to_all: return parts_.all_to_all(agreed, work.tensors, work.context);
    case BatchKind::barrier: return;  // The agreement itself is the barrier.
    case BatchKind::dense_all_reduce: break;
  }
  SCALECOM_ASSERT(false, "dense all-reduces go on in the background");
}

void Execution::broadcast(int root, std::span<PendingTensor* const> tensors,
                          const WaitContext& context) {
  std::vector<std::span<std::byte>> parts;
  parts.reserve(tensors.size());
  for (const PendingTensor* tensor : tensors) parts.push_back(bytes_of(tensor->output));
  collectives_.broadcast_parts(parts, root, context);
}

void Execution::start_dense(BatchUnderWay& work) {
  AllReduceBatch all_reduce;
  all_reduce.dtype = work.batch.dtype;
  all_reduce.op = work.batch.op;
  all_reduce.pieces.reserve(work.batch.tensors.size());
  for (std::size_t i = 0; i < work.batch.tensors.size(); ++i) {
    const TensorSignature& signature = work.agreement->tensors[work.batch.tensors[i]].signature;
    Piece piece;
    piece.count = count_of(signature.shape);
    if (!work.is_void) {
      piece.input = input_of(*work.tensors[i]);
      piece.output = output_of(*work.tensors[i]);
      piece.before = input_scale(signature);
      piece.after = output_scale(signature, size_);
    }
    all_reduce.pieces.push_back(piece);
  }
  all_reduce.done = [this, &work](std::size_t count) { complete(work, count); };
  collectives_.start_all_reduce(std::move(all_reduce));
  if (work.is_void) collectives_.discard(collectives_.under_way() - 1);
}

// Another rank has begun it: it needs a partner, whose values are thrown away.
void Execution::join_sparse(const BatchUnderWay& work) {
  std::vector<SparseSlot> slots;
  for (const std::size_t place : work.batch.tensors) {
    const TensorSignature& signature = work.agreement->tensors[place].signature;
    SparseSlot& slot = slots.emplace_back();
    slot.count = count_of(signature.shape);
    slot.rate = signature.compression.rate;
  }
  sparse_.exchange_nothing(slots, work.batch.sparse, work.context);
}

void Execution::all_reduce_sparse(const BatchUnderWay& work) {
  std::vector<SparseSlot> slots;
  slots.reserve(work.tensors.size());
  for (const PendingTensor* pending : work.tensors) {
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
  sparse_.exchange(slots, work.batch.sparse, work.context);
  if (work.is_void) return sparse_.take_back(slots);
  sparse_.deliver(slots, work.context);
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

}  // namespace scalecom
