#include "runtime/device/device_execution.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <typeinfo>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "runtime/device/device_exchange.hpp"
#include "runtime/residual_delivery.hpp"
#include "runtime/sparse_slot.hpp"
#include "runtime/tensor_memory.hpp"
#include "runtime/tensor_scales.hpp"
#include "sparse/device_sparse_all_reduce.hpp"
#include "sparse/value_limit.hpp"

namespace scalecom {
namespace {

Clock::duration limit_of(const Config& config) {
  const Deadline deadline =
      Deadline::after(std::chrono::duration<double>(config.collective_timeout_s));
  return deadline.at() - Clock::now();
}

// Null: it is not there. No dynamic_cast, as each tensor of each batch is asked.
DeviceResidual* on_device(const ResidualStore::Entry& entry) {
  ResidualMemory* const memory = entry.elsewhere.get();
  if (memory == nullptr || typeid(*memory) != typeid(DeviceResidual)) return nullptr;
  return static_cast<DeviceResidual*>(memory);
}

}  // namespace

DeviceExecution::DeviceExecution(int rank, int size, const Config& config, ResidualStore& residuals,
                                 HealthMonitor& health, DeviceNeeds needs)
    : rank_(rank),
      size_(size),
      limit_(limit_of(config)),
      residuals_(residuals),
      needs_(std::move(needs)),
      samples_(health) {}

// What was enqueued ends first: buffers go back to CUDA, which waits for the device. Samples give
// pinned memory back in the order of their lanes.
DeviceExecution::~DeviceExecution() {
  if (context_ == nullptr) return;
  const auto entered = enter_to_give_back(context_->accelerator());
  works_.clear();
  samples_.clear();
  lanes_.clear();
  collectives_.reset();
  wire_.reset();
}

void DeviceExecution::connect(int index, const WaitContext& wait) {
  context_ = needs_.session->acquire(index);
  interrupt_ = wait.interrupt;
  Accelerator& accelerator = context_->accelerator();
  const auto entered = accelerator.enter();
  wire_ = accelerator.make_stream();
  collectives_ = needs_.make_collectives(accelerator, wait);
  if (rank_ == 0) {
    log_info(fmt::format("CUDA tensors: {}, {}", accelerator.description(),
                         collectives_->description()));
  }
}

void DeviceExecution::measure(Collectives& host, const WaitContext& wait) {
  const auto entered = context_->accelerator().enter();
  WaitLoop loop(wait);
  Lane* free = nullptr;
  while ((free = find_lane()) == nullptr) {
    check();
    loop.pause("batches on the CUDA device, before it is measured");
  }
  const DeviceCosts costs = measure_device_costs(*free->lane, host, needs_.measured, wait);
  needs_.session->set_costs(costs);
  if (rank_ == 0) log_info("CUDA tensors: " + describe(costs));
}

void DeviceExecution::start(const Batch& batch, const Agreement& agreement,
                            std::span<PendingTensor* const> tensors) {
  SCALECOM_ASSERT(is_connected() && can_start(), "a device batch before its turn");
  works_.push_back({batch, agreement, tensors, Clock::now()});
}

bool DeviceExecution::is_done(const Batch& batch) const {
  return std::ranges::none_of(works_, [&](const Work& work) { return &work.batch == &batch; });
}

bool DeviceExecution::advance(const Batch& batch, const WaitContext& wait) {
  const auto entered = context_->accelerator().enter();
  const bool is_first = &works_.front().batch == &batch;
  work_ = is_first ? &works_.front() : &works_.back();
  if (!is_first) return begin_early();
  if (work_->failure) throw Error(*work_->failure);
  bool has_moved = begin();
  if (work_->operation == nullptr) return has_moved;
  for (;;) {
    has_moved = collectives_->advance(wait) || has_moved;
    if (!collectives_->is_posted()) return has_moved;
    if (!work_->collective) work_->collective = work_->operation->step();
    if (!work_->collective) break;
    std::exchange(work_->collective, nullptr)(wait);
    works_.back().has_inputs.reset();
    has_moved = true;
  }
  finish();
  return true;
}

// Its first passes, where that can be done and has not been. Of the second batch, when its tensors
// are there: a wait for them may hold up, in a queue of the device that streams share, what the
// first has still to enqueue. Where they are not, the device has enough to do.
bool DeviceExecution::begin() {
  if (work_->operation != nullptr) return false;
  if (work_ != &works_.front()) {
    if (!work_->has_inputs) work_->has_inputs = has_inputs();
    if (!*work_->has_inputs) return false;
  }
  if (work_->lane == nullptr) work_->lane = find_lane();
  if (work_->lane == nullptr || !find_room()) {
    check();
    return false;
  }
  collectives_->get_ready();
  for (const auto& [stream, event] : inputs()) {
    context_->accelerator().make_wait(lane().passes(), event->event.get());
  }
  work_->operation = make_operation();
  work_->collective = work_->operation->step();
  return true;
}

// The batch before may end well.
bool DeviceExecution::begin_early() {
  if (work_->failure) return false;
  try {
    return begin();
  } catch (const Error& error) {
    work_->failure = error;
    return true;
  }
}

// Asked once after each batch: a look at the device costs as much as an operation of it.
bool DeviceExecution::is_free(Lane& lane) const {
  if (std::ranges::find(works_, &lane, &Work::lane) != works_.end()) return false;
  if (lane.done != nullptr && context_->accelerator().is_done(lane.done->event.get())) {
    lane.done.reset();
  }
  return lane.done == nullptr;
}

// The first that is free: their buffers are as large as what they have had. Null: none is.
DeviceExecution::Lane* DeviceExecution::find_lane() {
  const auto found = std::ranges::find_if(lanes_, [this](Lane& lane) { return is_free(lane); });
  if (found != lanes_.end()) return &*found;
  if (lanes_.size() == kLanesMax) return nullptr;
  auto lane = std::make_unique<DeviceLane>(context_->accelerator(), context_->pinned(),
                                           *collectives_, wire_.get());
  auto layouts = std::make_unique<DeviceSparseLayouts>(*lane);
  return &lanes_.emplace_back(Lane{std::move(lane), std::move(layouts), {}, {}});
}

// What the batch takes of Buffer::packed for sure: one that owes takes as much where this says 0.
std::size_t DeviceExecution::packed_bytes() const {
  const BatchKind kind = work_->batch.kind;
  const bool is_fused = work_->tensors.size() > 1;
  const bool is_scaled =
      !input_scale(signature(0)).is_identity() || !output_scale(signature(0), size_).is_identity();
  const bool is_packed = kind == BatchKind::reduce_scatter ||
                         (kind == BatchKind::broadcast && is_fused) ||
                         (kind == BatchKind::dense_all_reduce && (is_fused || is_scaled));
  std::int64_t bytes = 0;
  if (!is_packed) return 0;
  for (const PendingTensor* tensor : work_->tensors) {
    bytes += DeviceLane::slot_bytes(tensor->input.bytes());
  }
  return static_cast<std::size_t>(bytes);
}

// Before anything of the batch is enqueued. Where the device has no memory for its fusion buffer,
// other lanes give back theirs, once their batches are done: those need nothing of this one, on any
// rank. How many are under way at once is each rank's own affair.
bool DeviceExecution::find_room() {
  const std::size_t bytes = packed_bytes();
  if (bytes == 0) return true;
  const auto is_in_use = [this](Lane& lane) { return &lane != work_->lane && !is_free(lane); };
  if (work_->is_short_of_memory && std::ranges::any_of(lanes_, is_in_use)) return false;
  try {
    lane().acquire(DeviceLane::Buffer::packed, bytes);
    return true;
  } catch (const Error& error) {
    if (error.code() != StatusCode::unavailable || !give_back_others()) throw;
    if (!std::exchange(has_told_of_shortage_, true)) {
      log_warning(
          fmt::format("a batch of CUDA tensors waits for the memory of those before it, and "
                      "so may others: {}",
                      error.what()));
    }
  }
  work_->is_short_of_memory = true;
  return false;
}

// Whether there is something to be had, now or when a batch is done.
bool DeviceExecution::give_back_others() {
  bool has_any = false;
  for (Lane& other : lanes_) {
    if (&other == work_->lane) continue;
    if (!is_free(other)) {
      has_any = true;
    } else if (other.lane->give_back()) {
      other.done = context_->record(other.lane->passes());
      other.finished = Clock::now();
      has_any = true;
    }
  }
  return has_any;
}

// Behind the last submit of each stream come all before it.
DeviceExecution::Inputs DeviceExecution::inputs() const {
  Inputs last;
  for (const PendingTensor* tensor : work_->tensors) {
    const DeviceEvent*& event = last[tensor->ready->stream];
    if (event == nullptr || event->number < tensor->ready->number) event = tensor->ready.get();
  }
  return last;
}

bool DeviceExecution::has_inputs() const {
  return std::ranges::all_of(inputs(), [this](const auto& input) {
    return context_->accelerator().is_done(input.second->event.get());
  });
}

void DeviceExecution::finish() {
  const auto done = context_->record(lane().passes());
  for (const auto& residual : work_->used) residual->set_last_use(done);
  if (work_->sample != nullptr) samples_.finish(*work_->sample, done);
  end_at(done);
  const TimePoint now = Clock::now();
  work_->lane->finished = now;
  work_->lane->done = done;
  ++enqueued_.batches;
  enqueued_.time += now - work_->started;
  works_.pop_front();
  if (!works_.empty()) works_.front().started = now;
}

// What the work's tensors use is free behind `end`.
void DeviceExecution::end_at(const std::shared_ptr<const DeviceEvent>& end) {
  bool has_zeros = false;
  const TicketState* last = nullptr;
  for (const PendingTensor* tensor : work_->tensors) {
    if (tensor->ticket.get() != last) {  // The members of a group come together.
      last = tensor->ticket.get();
      tensor->ticket->add_device_result(context_, end);
    }
    has_zeros = has_zeros || tensor->zeros != nullptr;
  }
  if (has_zeros) context_->keep_until(*end);
}

const TensorSignature& DeviceExecution::signature(std::size_t place) const {
  return work_->agreement.tensors[work_->batch.tensors[place]].signature;
}

std::unique_ptr<DeviceOperation> DeviceExecution::make_operation() {
  if (work_->batch.kind == BatchKind::dense_all_reduce) return make_dense();
  if (work_->batch.kind == BatchKind::sparse_all_reduce) return make_sparse();
  DeviceExchangeBatch batch{work_->batch, {}, work_->tensors};
  for (const std::size_t place : work_->batch.tensors) {
    batch.agreed.push_back(&work_->agreement.tensors[place]);
  }
  return std::make_unique<DeviceExchange>(lane(), *context_, std::move(batch));
}

std::unique_ptr<DeviceOperation> DeviceExecution::make_dense() {
  std::vector<DevicePiece> pieces;
  pieces.reserve(work_->tensors.size());
  for (std::size_t i = 0; i < work_->tensors.size(); ++i) {
    const PendingTensor& tensor = *work_->tensors[i];
    DevicePiece& piece = pieces.emplace_back();
    piece.piece = {input_of(tensor), output_of(tensor), tensor.input.count(),
                   input_scale(signature(i)), output_scale(signature(i), size_)};
    piece.owed = owed_by(tensor);
    if (piece.owed != nullptr && tensor.input.dtype == DataType::float32) {
      piece.void_mark = work_->used.back()->ask_whether_void();
    }
    piece.limit = value_limit(tensor.input.dtype, size_);
  }
  return std::make_unique<DeviceAllReduce>(lane(), std::move(pieces), work_->batch.dtype,
                                           work_->batch.op);
}

std::unique_ptr<DeviceOperation> DeviceExecution::make_sparse() {
  slots_.clear();
  for (std::size_t i = 0; i < work_->tensors.size(); ++i) {
    const PendingTensor& tensor = *work_->tensors[i];
    const TensorSignature& agreed = signature(i);
    float* const residual = residual_of(tensor.name, residual_for_step(residuals_, tensor, agreed));
    slots_.push_back(sparse_slot(tensor, agreed, residual, size_));
  }
  work_->sample = samples_.begin(context_->pinned(), work_->batch, work_->agreement);
  return std::make_unique<DeviceSparseAllReduce>(lane(), *work_->lane->layouts, slots_,
                                                 work_->batch.sparse, work_->sample);
}

std::vector<CompressionHealth> DeviceExecution::read_samples() {
  if (samples_.is_empty()) return {};
  return samples_.read(context_->accelerator(), size_);
}

DeviceResidual& DeviceExecution::bring(const std::string& name, ResidualStore::Entry& entry) const {
  DeviceResidual* const there = on_device(entry);
  if (there != nullptr) return *there;
  const std::int64_t count = count_of(entry.shape);
  std::shared_ptr<DeviceResidual> residual;
  try {
    residual = std::make_shared<DeviceResidual>(context_, count, entry.values,
                                                DeviceResidual::Bounds{limit_, interrupt_});
  } catch (const Error& error) {
    if (error.code() != StatusCode::unavailable) throw;
    throw Error(StatusCode::unavailable,
                fmt::format("tensor {}: its residual takes {} bytes on the device, 4 for each "
                            "element: {}; or compress fewer tensors (rates, Compression.none)",
                            name, count * 4, error.what()));
  }
  entry.values = {};
  entry.elsewhere = residual;
  return *residual;
}

// On the device, and in the order of this lane.
float* DeviceExecution::residual_of(const std::string& name, ResidualStore::Entry& entry) {
  DeviceResidual& residual = bring(name, entry);
  const auto& last = residual.last_use();
  auto& used = work_->used;
  const bool is_new = used.empty() || used.back()->last_use() != last;
  if (is_new && last->stream != lane().passes()) {
    context_->accelerator().make_wait(lane().passes(), last->event.get());
  }
  used.push_back(std::static_pointer_cast<DeviceResidual>(entry.elsewhere));
  return residual.data();
}

// The residual of a tensor that is not compressed any more goes with this step.
float* DeviceExecution::owed_by(const PendingTensor& tensor) {
  const ResidualStore::Entry* found = residuals_.find(tensor.name);
  if (found == nullptr) return nullptr;
  const double beta = discount_of_delivery(tensor, *found);
  if (beta == 0.0) return nullptr;
  DeviceResidual* const there = on_device(*found);
  if (there != nullptr && !found->is_rest) there->forget_delivery();
  if (there != nullptr && there->is_delivered()) {
    residuals_.acquire(tensor.name, tensor.signature.shape).is_zero = true;
    return nullptr;
  }
  if (!found->is_rest) {
    log_info(fmt::format(
        "tensor {}: it is not compressed any more; this step delivers its residual", tensor.name));
  }
  ResidualStore::Entry& entry = residuals_.acquire(tensor.name, tensor.signature.shape);
  if (beta != 1.0) bring(tensor.name, entry).scale(1.0, beta);
  entry.beta = 1.0;
  entry.is_rest = true;
  // What rounding leaves goes with the next steps. Of float32 it leaves nothing, but this step may
  // turn out to be void: until it is known that it was not, each step takes along what is there.
  return residual_of(tensor.name, entry);
}

bool DeviceExecution::is_busy() {
  if (!is_connected()) return false;
  if (!is_done()) return true;
  return std::ranges::any_of(lanes_, [this](Lane& lane) { return !is_free(lane); });
}

void DeviceExecution::check() {
  if (!is_busy()) return;
  collectives_->check();
  for (Lane& lane : lanes_) {
    const bool is_under_way = !is_free(lane) && lane.done != nullptr;
    if (!is_under_way || Clock::now() - lane.finished < limit_) continue;
    throw Error(StatusCode::timed_out,
                fmt::format("a batch on the CUDA device, and what your streams have before it, "
                            "has not ended {:.0f} s after it was enqueued",
                            std::chrono::duration<double>(limit_).count()));
  }
}

void DeviceExecution::close(const WaitContext& wait) {
  if (!is_connected()) return;
  const auto entered = context_->accelerator().enter();
  WaitLoop loop(wait);
  while (is_busy()) {
    collectives_->check();
    loop.pause("batches on the CUDA device");
  }
  collectives_->close(wait);
}

// The passes of a batch that is given up may still be on their way: its tickets know until when.
// Nothing is read of samples any more: what was aborted has no results.
void DeviceExecution::abort() noexcept {
  if (collectives_ != nullptr) collectives_->abort();
  samples_.clear();
  for (Work& work : works_) {
    if (work.operation == nullptr) continue;
    work_ = &work;
    try {
      const auto entered = context_->accelerator().enter();
      lane().return_from_wire();
      const auto end = context_->record(lane().passes());
      for (const auto& residual : work.used) residual->set_last_use(end);
      end_at(end);
      context_->keep_until(*end);  // Results that no ticket has yet go with the operation.
    } catch (const Error& error) {
      log_error(error.what());
    }
  }
}

TransportCounters DeviceExecution::counters() const {
  return collectives_ == nullptr ? TransportCounters{} : collectives_->counters();
}

}  // namespace scalecom
