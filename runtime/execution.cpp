#include "runtime/execution.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "runtime/sparse_slot.hpp"
#include "runtime/tensor_memory.hpp"
#include "runtime/tensor_scales.hpp"
#include "sparse/value_limit.hpp"

namespace scalecom {
namespace {

std::span<std::byte> bytes_of(const TensorView& view) {
  return {static_cast<std::byte*>(view.data), static_cast<std::size_t>(view.bytes())};
}

// While a batch keeps moving, the rest of the world is looked at this often.
constexpr auto kLookAroundPeriod = std::chrono::microseconds(50);

// In a timeline: what the host does for tensors of a device, on which the batch then goes on.
constexpr const char* kEnqueue = "ENQUEUE";

SparseOptions sparse_options(WorkerPool& workers, int threads) {
  SparseOptions options;
  options.threads = threads;
  options.loop = [&workers](std::size_t count, const std::function<void(std::size_t)>& body) {
    workers.run(count, body);
  };
  return options;
}

bool has_steps(BatchKind kind) {
  return kind == BatchKind::dense_all_reduce || kind == BatchKind::sparse_all_reduce;
}

}  // namespace

Execution::Execution(Collectives& collectives, int rank, int size, const Config& config,
                     Timeline& timeline, TensorsDone done, DeviceNeeds devices)
    : collectives_(collectives),
      size_(size),
      rank_(rank),
      timeline_(timeline),
      done_(std::move(done)),
      workers_(static_cast<int>(config.compress_threads)),
      parts_(collectives, rank, size),
      adasum_(collectives, size),
      health_(config, rank),
      on_devices_(rank, size, config, residuals_, health_, std::move(devices)) {
  const auto threads = static_cast<int>(config.compress_threads);
  for (std::size_t i = 0; i < kBatchesMax; ++i) {
    sparse_.push_back(std::make_unique<SparseAllReduce>(collectives, rank, size,
                                                        sparse_options(workers_, threads)));
  }
}

void Execution::start(Batch batch, std::shared_ptr<const Agreement> agreement,
                      std::vector<PendingTensor*> tensors, const WaitContext& context) {
  const BatchKind kind = batch.kind;
  under_way_.push_back({std::move(batch), std::move(agreement), std::move(tensors), context});
  BatchUnderWay& work = under_way_.back();
  work.is_void = is_void(*work.agreement);
  if (timeline_.is_on() && !work.is_void) begin_times(work);
  if (work.batch.device == DeviceKind::cuda) return start_on_device(work);
  if (kind == BatchKind::dense_all_reduce) return start_dense(work);
  if (kind == BatchKind::sparse_all_reduce) return start_sparse(work);
  try {
    run(work);
  } catch (const Error& error) {
    fail(work, error);
  }
  if (!work.is_void) complete(work, work.tensors.size());
  under_way_.pop_back();
}

bool Execution::goes_in_steps(const Batch& batch) const noexcept {
  if (batch.kind == BatchKind::barrier) return true;
  if (batch.measures_device) return false;
  const bool is_started_alone =
      batch.device == DeviceKind::cuda ? on_devices_.is_connected() : has_steps(batch.kind);
  return is_started_alone && collectives_.goes_in_steps();
}

bool Execution::may_wait_inside(const Batch& batch) noexcept {
  return batch.device == DeviceKind::cuda && !has_steps(batch.kind) &&
         batch.kind != BatchKind::all_gather;
}

bool Execution::may_wait_inside() const noexcept {
  return std::ranges::any_of(under_way_, [](const BatchUnderWay& work) {
    return work.is_on_device && work.done == 0 && may_wait_inside(work.batch);
  });
}

// What a batch still has to send goes before the next one's, on every rank.
bool Execution::can_start(const Batch& batch) const noexcept {
  if (under_way_.empty()) return true;
  const BatchUnderWay& last = under_way_.back();
  const bool is_next_on_device = batch.device == DeviceKind::cuda;
  const bool is_posted = last.is_on_device
                             ? (is_next_on_device ? on_devices_.can_start() : on_devices_.is_done())
                             : last.sparse == nullptr || last.sparse->is_posted();
  return goes_in_steps(batch) && under_way_.size() < kBatchesMax && is_posted;
}

void Execution::revoke(std::uint64_t first_void, std::uint64_t end) {
  first_void_ = first_void;
  end_of_void_ = end;
  for (BatchUnderWay& work : under_way_) {
    if (work.is_void || !is_void(*work.agreement)) continue;
    work.is_void = true;
    if (work.batch.kind == BatchKind::dense_all_reduce) collectives_.discard(work.operation);
    if (work.sparse != nullptr) work.sparse->discard();
  }
  collectives_.release();
}

void Execution::progress(const std::function<bool()>& is_enough) {
  TimePoint looked_around = Clock::now();
  while (!is_enough()) {
    context_ = under_way_.front().context;
    try {
      if (!advance()) {
        if (on_devices_.is_done()) {
          collectives_.pause(wait_, "all-reduce");
        } else {
          wait_.pause("a batch of CUDA tensors");  // The device wakes nobody.
        }
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
      fail(failing_ != nullptr ? *failing_ : under_way_.front(), error);
    }
  }
}

bool Execution::advance() {
  bool has_moved = false;
  try {
    has_moved = collectives_.advance(context_);
  } catch (const Error&) {
    drop_done();
    throw;
  }
  for (BatchUnderWay& work : under_way_) {
    failing_ = &work;
    if (work.sparse != nullptr) has_moved = work.sparse->advance() || has_moved;
    if (work.is_on_device) has_moved = advance_on_device(work) || has_moved;
  }
  failing_ = nullptr;
  drop_done();
  return has_moved;
}

bool Execution::is_done(const BatchUnderWay& work) const {
  if (work.is_on_device) return work.done == work.tensors.size();
  return work.sparse != nullptr ? work.sparse->is_done() : collectives_.is_done(work.operation);
}

void Execution::drop_done() {
  while (!under_way_.empty() && is_done(under_way_.front())) {
    BatchUnderWay& work = under_way_.front();
    if (work.sparse != nullptr && !work.is_void) finish_sparse(work);
    under_way_.pop_front();
  }
}

void Execution::complete(BatchUnderWay& work, std::size_t count) {
  const std::span<PendingTensor* const> tensors(work.tensors);
  if (count == work.tensors.size()) {
    ++batches_executed_;
    if (has_steps(work.batch.kind)) keep_steps(work);
  }
  settle_residuals(work, count);
  if (work.times != nullptr) tell_times(work, count);
  done_(tensors.subspan(work.done, count - work.done));
  work.done = count;
}

void Execution::begin_times(BatchUnderWay& work) const {
  const Batch& batch = work.batch;
  const OperationKind kind = work.agreed(0).signature.kind;
  const bool has_leader =
      batch.kind == BatchKind::sparse_all_reduce && batch.sparse.mode == CompressionMode::cyclic;
  work.times = timeline_.start_batch({.operation = timeline_operation(kind),
                                      .bytes = batch.bytes,
                                      .tensors = static_cast<std::int32_t>(work.tensors.size()),
                                      .leader = has_leader ? batch.sparse.leader : -1});
  if (batch.device == DeviceKind::cuda) {
    work.times->enter(kEnqueue);
  } else if (!has_steps(batch.kind) && kind != OperationKind::barrier) {
    work.times->enter(timeline_activity(kind));
  }
}

// A timeline may have ended since.
void Execution::tell_times(const BatchUnderWay& work, std::size_t count) {
  if (!timeline_.is_on()) return;
  const TimePoint now = Clock::now();
  for (std::size_t i = work.done; i < count; ++i) {
    const AgreedTensor& agreed = work.agreed(i);
    const std::int64_t step = is_compressed(agreed.signature) ? agreed.step : -1;
    timeline_.complete(work.tensors[i]->times, *work.times, step, now);
  }
}

void Execution::fail(const BatchUnderWay& work, const Error& error) const {
  throw Error(error.code(),
              fmt::format("{} of {} tensors (first: {}) on rank {}: {}", to_string(work.batch.kind),
                          work.tensors.size(), work.agreed(0).name, rank_, error.what()));
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
  for (std::size_t i = 0; i < work.tensors.size(); ++i) agreed.push_back(&work.agreed(i));
  switch (batch.kind) {
    case BatchKind::all_gather: return parts_.all_gather(agreed, work.tensors, work.context);
    case BatchKind::broadcast: return broadcast(batch.root, work.tensors, work.context);
    case BatchKind::reduce_scatter: return parts_.reduce_scatter(batch, work.tensors, work.context);
    case BatchKind::all_to_all: return parts_.all_to_all(agreed, work.tensors, work.context);
    case BatchKind::adasum: return adasum(work);
    case BatchKind::barrier: return;  // The agreement itself is the barrier.
    case BatchKind::dense_all_reduce:
    case BatchKind::sparse_all_reduce: break;
  }
  SCALECOM_ASSERT(false, "all-reduces go on in the background");
}

void Execution::broadcast(int root, std::span<PendingTensor* const> tensors,
                          const WaitContext& context) {
  std::vector<std::span<std::byte>> parts;
  parts.reserve(tensors.size());
  for (const PendingTensor* tensor : tensors) parts.push_back(bytes_of(tensor->output));
  collectives_.broadcast_parts(parts, root, context);
}

void Execution::adasum(const BatchUnderWay& work) {
  std::vector<Piece> pieces;
  for (const PendingTensor* tensor : work.tensors) {
    pieces.push_back({input_of(*tensor), output_of(*tensor), count_of(tensor->signature.shape),
                      input_scale(tensor->signature), output_scale(tensor->signature, size_)});
  }
  adasum_.reduce(pieces, work.batch.dtype, work.context);
}

void Execution::start_dense(BatchUnderWay& work) {
  AllReduceBatch all_reduce;
  all_reduce.dtype = work.batch.dtype;
  all_reduce.op = work.batch.op;
  all_reduce.pieces.reserve(work.batch.tensors.size());
  for (std::size_t i = 0; i < work.batch.tensors.size(); ++i) {
    const TensorSignature& signature = work.agreed(i).signature;
    Piece piece;
    piece.count = count_of(signature.shape);
    if (!work.is_void) {
      piece.input = input_of(*work.tensors[i]);
      piece.output = output_of(*work.tensors[i]);
      piece.before = input_scale(signature);
      if (const std::byte* with_residual = take_residual_along(work, i)) {
        piece.input = with_residual;
        piece.before = {};
      }
      piece.after = output_scale(signature, size_);
    }
    all_reduce.pieces.push_back(piece);
  }
  all_reduce.phases = work.times.get();
  all_reduce.done = [this, &work](std::size_t count) { complete(work, count); };
  work.operation = collectives_.start_all_reduce(std::move(all_reduce));
  if (work.is_void) collectives_.discard(work.operation);
}

// Their agreements are never void: a schedule has no tensors of devices (see schedule.hpp).
void Execution::start_on_device(BatchUnderWay& work) {
  SCALECOM_ASSERT(!work.is_void, "a void batch of CUDA tensors");
  work.is_on_device = true;
  try {
    if (!on_devices_.is_connected()) {
      on_devices_.connect(work.tensors.front()->input.device.index, work.context);
    }
    if (work.batch.measures_device) on_devices_.measure(collectives_, work.context);
    on_devices_.start(work.batch, *work.agreement, work.tensors);
  } catch (const Error& error) {
    fail(work, error);
  }
}

bool Execution::advance_on_device(BatchUnderWay& work) {
  if (is_done(work) || !on_devices_.advance(work.batch, work.context)) return false;
  if (!on_devices_.is_done(work.batch)) return true;
  if (work.batch.kind == BatchKind::sparse_all_reduce) {
    compressed_tensors_ += static_cast<std::int64_t>(work.tensors.size());
  }
  complete(work, work.tensors.size());
  give_turn_behind(work);
  return true;
}

// The next batch on the device has waited for this one, whatever that took.
void Execution::give_turn_behind(const BatchUnderWay& work) {
  const auto is_it = [&work](const BatchUnderWay& other) { return &other == &work; };
  const auto next = std::next(std::ranges::find_if(under_way_, is_it));
  if (next == under_way_.end() || !next->is_on_device) return;
  next->context.deadline = Deadline::after(on_devices_.limit());
}

// Null where there is none: the tensor's own input.
const std::byte* Execution::take_residual_along(BatchUnderWay& work, std::size_t place) {
  const PendingTensor& tensor = *work.tensors[place];
  const ResidualStore::Entry* residual = residuals_.find(tensor.name);
  if (residual == nullptr) return nullptr;
  const double beta = discount_of_delivery(tensor, *residual);
  if (beta == 0.0) return nullptr;
  if (!residual->is_rest) {
    log_info(fmt::format(
        "tensor {}: it is not compressed any more; this step delivers its residual", tensor.name));
  }
  residuals_.acquire(tensor.name, tensor.signature.shape).in_host();
  const float limit = value_limit(tensor.input.dtype, size_);
  const Delivery& delivery = work.with_residuals[place] = deliver(tensor, *residual, beta, limit);
  return delivery.input.data();
}

void Execution::read_device_health() {
  const auto health = on_devices_.read_samples();
  if (!health.empty() && timeline_.is_on()) timeline_.sample(health);
}

// Before the tensors have been given back. After NaN or Inf a step is not taken by its optimizer:
// the residual waits for the next one.
void Execution::settle_residuals(BatchUnderWay& work, std::size_t count) {
  for (auto& [place, delivery] : work.with_residuals) {
    const PendingTensor& tensor = *work.tensors[place];
    if (place < work.done || place >= count || !has_finite_output(tensor)) continue;
    residuals_.acquire(tensor.name, tensor.signature.shape)
        .settle(std::move(delivery.rest), delivery.beta);
  }
}

// In a void batch another rank, which has begun it, needs a partner; the values are thrown away.
void Execution::start_sparse(BatchUnderWay& work) {
  std::vector<SparseSlot> slots;
  slots.reserve(work.tensors.size());
  for (std::size_t i = 0; i < work.tensors.size(); ++i) {
    const TensorSignature& signature = work.agreed(i).signature;
    if (!work.is_void) {
      const PendingTensor& tensor = *work.tensors[i];
      float* const residual = residual_for_step(residuals_, tensor, signature).in_host().data();
      slots.push_back(sparse_slot(tensor, signature, residual, size_));
      continue;
    }
    SparseSlot& slot = slots.emplace_back();
    slot.count = count_of(signature.shape);
    slot.dtype = signature.dtype;
    slot.rate = signature.compression.rate;
  }
  work.sparse = idle_sparse();
  if (work.is_void) return work.sparse->start_nothing(std::move(slots), work.batch.sparse);
  work.sparse->start(
      std::move(slots), work.batch.sparse,
      [this, &work](const SparseAllReduce&) { return sample_health(work); }, work.times.get());
}

SparseAllReduce* Execution::idle_sparse() const {
  const auto found = std::ranges::find_if(sparse_, [](const auto& one) { return one->is_done(); });
  SCALECOM_ASSERT(found != sparse_.end(), std::to_string(sparse_.size()) + " are under way");
  return found->get();
}

// Every rank samples the same tensors: steps and flags are agreed on, and a void batch is known to
// be one everywhere when its flags are (see Revocation).
std::span<std::byte> Execution::sample_health(BatchUnderWay& work) const {
  const std::span<const SparseSlot> slots = work.sparse->slots();
  std::vector<bool> is_sampled(slots.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    is_sampled[i] = !slots[i].went_dense && health_.is_sampled(work.agreed(i).step);
  }
  if (std::ranges::find(is_sampled, true) == is_sampled.end()) return {};
  const std::vector<SparseChoice> choices = work.sparse->choices(is_sampled);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (!is_sampled[i]) continue;
    work.sample.add(slots[i], choices[i], work.agreed(i).step);
    work.sampled.push_back(&work.agreed(i));
  }
  return work.sample.data();
}

void Execution::finish_sparse(BatchUnderWay& work) {
  if (!work.sampled.empty()) {
    const auto health = health_.record(work.sampled, work.sample.health(size_));
    if (timeline_.is_on()) timeline_.sample(health);
  }
  compressed_tensors_ += static_cast<std::int64_t>(work.tensors.size());
  for (const SparseSlot& slot : work.sparse->slots()) {
    if (slot.went_dense) report_nonfinite(slot);
  }
  complete(work, work.tensors.size());
}

// Warm-up steps, which go dense and leave the residual as it is, count as well: a checkpoint may be
// taken in between.
void Execution::keep_steps(const BatchUnderWay& work) {
  for (std::size_t i = 0; i < work.tensors.size(); ++i) {
    const AgreedTensor& agreed = work.agreed(i);
    if (!is_compressed(agreed.signature)) continue;
    residuals_.acquire(agreed.name, agreed.signature.shape).next_step = agreed.step + 1;
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
