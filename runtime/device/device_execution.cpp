#include "runtime/device/device_execution.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <typeinfo>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "runtime/device/device_costs.hpp"
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
  const auto entered = context_->accelerator().enter();
  work_.reset();
  used_.clear();
  reserved_.clear();
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
  while (!take_lane()) {
    check();
    loop.pause("batches on the CUDA device, before it is measured");
  }
  const DeviceCosts costs = measure_device_costs(lane(), host, wait);
  needs_.session->set_costs(costs);
  if (rank_ == 0) log_info("CUDA tensors: " + describe(costs));
}

void DeviceExecution::start(const Batch& batch, const Agreement& agreement,
                            std::span<PendingTensor* const> tensors) {
  SCALECOM_ASSERT(is_connected() && is_done(), "a device batch before its turn");
  work_.emplace(Work{batch, agreement, tensors, Clock::now(), nullptr});
}

bool DeviceExecution::advance(const WaitContext& wait) {
  if (is_done()) return false;
  const auto entered = context_->accelerator().enter();
  bool has_moved = false;
  if (!work_->has_begun) {
    if ((!work_->is_short_of_memory && !take_lane()) || !find_memory()) {
      check();
      return false;
    }
    begin();
    has_moved = true;
  }
  for (;;) {
    has_moved = collectives_->advance(wait) || has_moved;
    if (!collectives_->is_posted()) return has_moved;
    if (!work_->operation->step(wait)) break;
    has_moved = true;
  }
  finish();
  return true;
}

// Asked once after each batch: a look at the device costs as much as an operation of it.
bool DeviceExecution::is_free(Lane& lane) const {
  if (lane.done != nullptr && context_->accelerator().is_done(lane.done->event.get())) {
    lane.done.reset();
  }
  return lane.done == nullptr;
}

// The first that is free: their buffers are as large as what they have had.
bool DeviceExecution::take_lane() {
  const auto found = std::ranges::find_if(lanes_, [this](Lane& lane) { return is_free(lane); });
  turn_ = static_cast<std::size_t>(found - lanes_.begin());
  if (found != lanes_.end()) return true;
  if (lanes_.size() == kLanesMax) return false;
  auto lane = std::make_unique<DeviceLane>(context_->accelerator(), context_->pinned(),
                                           *collectives_, wire_.get());
  auto layouts = std::make_unique<DeviceSparseLayouts>(*lane);
  lanes_.push_back({std::move(lane), std::move(layouts), {}, {}});
  return true;
}

// Before anything of the batch is begun: what it takes of the device's memory, all of it. Where
// that is not there, all batches before it end, which need nothing of this one on any rank, lanes
// give back what they have kept, and it is tried once more. How many batches are under way at once
// is each rank's own affair.
bool DeviceExecution::find_memory() {
  if (work_->is_short_of_memory) {
    if (std::ranges::any_of(lanes_, [this](Lane& lane) { return !is_free(lane); })) return false;
    if (give_back()) return false;
  }
  try {
    make_zeros();
    if (work_->operation == nullptr) work_->operation = make_operation();
    work_->operation->prepare();
    return true;
  } catch (const Error& error) {
    if (error.code() != StatusCode::unavailable || work_->is_short_of_memory) throw;
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

// All buffers of all lanes, which are free; whether there were any. They count as busy until the
// device has come to it: what it has of them before is not to be had otherwise.
bool DeviceExecution::give_back() {
  bool has_any = false;
  for (Lane& lane : lanes_) {
    if (!lane.lane->give_back()) continue;
    lane.done = context_->record(lane.lane->passes());
    lane.finished = Clock::now();
    has_any = true;
  }
  return has_any;
}

// What a rank that has joined takes part with.
void DeviceExecution::make_zeros() {
  for (PendingTensor* tensor : work_->tensors) {
    if (tensor->ready != nullptr) continue;
    DeviceContext::Zeros zeros =
        context_->allocate_zeros(static_cast<std::size_t>(tensor->input.bytes()));
    tensor->input.data = tensor->output.data = zeros.memory.get();
    tensor->zeros = std::move(zeros.memory);
    tensor->ready = std::move(zeros.ready);
  }
}

void DeviceExecution::begin() {
  wait_for_inputs();
  work_->has_begun = true;
}

// Behind the last submit of each stream come all before it.
void DeviceExecution::wait_for_inputs() const {
  std::map<StreamHandle, const DeviceEvent*> last;
  for (const PendingTensor* tensor : work_->tensors) {
    const DeviceEvent*& event = last[tensor->ready->stream];
    if (event == nullptr || event->number < tensor->ready->number) event = tensor->ready.get();
  }
  for (const auto& [stream, event] : last) {
    context_->accelerator().make_wait(lane().passes(), event->event.get());
  }
}

void DeviceExecution::finish() {
  const auto done = context_->record(lane().passes());
  for (const auto& residual : used_) {
    residual->set_last_use(done);
  }
  used_.clear();
  samples_.finish(done);
  end_at(done);
  const TimePoint now = Clock::now();
  lanes_[turn_].finished = now;
  lanes_[turn_].done = done;
  ++enqueued_.batches;
  enqueued_.time += now - work_->started;
  work_.reset();
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

// Takes memory for residuals; again where there was none for one of them.
std::unique_ptr<DeviceOperation> DeviceExecution::make_operation() {
  used_.clear();
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
    piece.limit = value_limit(tensor.input.dtype, size_);
  }
  // Once all of them are there: it is asked once.
  auto residual = used_.begin();
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].owed == nullptr) continue;
    if (work_->tensors[i]->input.dtype == DataType::float32) {
      pieces[i].void_mark = (*residual)->ask_whether_void();
    }
    ++residual;
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
  return std::make_unique<DeviceSparseAllReduce>(
      lane(), *lanes_[turn_].layouts, slots_, work_->batch.sparse,
      samples_.begin(context_->pinned(), work_->batch, work_->agreement));
}

std::vector<CompressionHealth> DeviceExecution::read_samples() {
  if (samples_.is_empty()) return {};
  return samples_.read(context_->accelerator(), size_);
}

std::shared_ptr<DeviceResidual> DeviceExecution::make_residual(std::int64_t count) const {
  try {
    return std::make_shared<DeviceResidual>(needs_.session->context(), count,
                                            DeviceResidual::Bounds{limit_, interrupt_});
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("its residual takes {} bytes on the device, 4 for each element: {}; or "
                            "compress fewer tensors (rates, Compression.none)",
                            count * 4, error.what()));
  }
}

bool DeviceExecution::reserve_residual(const PendingTensor& tensor, Interrupt* interrupt) {
  const ResidualStore::Entry* entry = residuals_.find(tensor.name);
  const bool has_place = entry != nullptr && entry->shape == tensor.signature.shape;
  if (has_place && on_device(*entry) != nullptr) return true;
  if (waits_for_residual_ && is_busy()) return false;
  const std::int64_t count = tensor.input.count();
  const auto found = reserved_.find(tensor.name);
  if (found != reserved_.end() && found->second->count() == count) return true;
  release_residual(tensor.name);
  interrupt_ = interrupt;
  const auto entered = needs_.session->context()->accelerator().enter();
  try {
    reserved_.emplace(tensor.name, make_residual(count));
    waits_for_residual_ = false;
    return true;
  } catch (const Error& error) {
    waits_for_residual_ = error.code() == StatusCode::unavailable && (is_busy() || give_back());
    if (!waits_for_residual_) throw;
  }
  return false;
}

DeviceResidual& DeviceExecution::bring(const std::string& name, ResidualStore::Entry& entry) {
  DeviceResidual* const there = on_device(entry);
  if (there != nullptr) return *there;
  const std::int64_t count = count_of(entry.shape);
  std::shared_ptr<DeviceResidual> residual;
  if (auto node = reserved_.extract(name); !node.empty()) residual = std::move(node.mapped());
  try {
    if (residual == nullptr || residual->count() != count) residual = make_residual(count);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("tensor {}: {}", name, error.what()));
  }
  residual->write(entry.values);
  entry.values = {};
  entry.elsewhere = residual;
  return *residual;
}

// On the device, and in the order of this lane.
float* DeviceExecution::residual_of(const std::string& name, ResidualStore::Entry& entry) {
  DeviceResidual& residual = bring(name, entry);
  const auto& last = residual.last_use();
  const bool is_new = used_.empty() || used_.back()->last_use() != last;
  if (is_new && last->stream != lane().passes()) {
    context_->accelerator().make_wait(lane().passes(), last->event.get());
  }
  used_.push_back(std::static_pointer_cast<DeviceResidual>(entry.elsewhere));
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
    if (is_free(lane) || Clock::now() - lane.finished < limit_) continue;
    throw Error(StatusCode::timed_out,
                fmt::format("a batch on the CUDA device has not ended {:.0f} s after it was "
                            "enqueued; a rank may hang, or SCALECOM_COLLECTIVE_TIMEOUT is too "
                            "short for what your streams have before it",
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
  if (!work_ || !work_->has_begun) return;
  try {
    const auto entered = context_->accelerator().enter();
    lane().return_from_wire();
    const auto end = context_->record(lane().passes());
    for (const auto& residual : used_) residual->set_last_use(end);
    end_at(end);
  } catch (const Error& error) {
    log_error(error.what());
  }
}

TransportCounters DeviceExecution::counters() const {
  return collectives_ == nullptr ? TransportCounters{} : collectives_->counters();
}

}  // namespace scalecom
