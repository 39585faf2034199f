#include "runtime/device/device_residual.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kPinnedBytes = 4 << 20;

}  // namespace

// In the order of streams: to allocate and to free otherwise would wait for all that is on the
// device, which a rank that is lost may hold up.
DeviceResidual::DeviceResidual(std::shared_ptr<DeviceContext> context, std::int64_t count,
                               const Bounds& bounds)
    : context_(std::move(context)),
      count_(count),
      bounds_(bounds),
      memory_(context_->allocate(bytes(), context_->copies())) {}

// An upload that throws ends in the destructor, as the other constructor is done.
DeviceResidual::DeviceResidual(std::shared_ptr<DeviceContext> context, std::int64_t count,
                               const std::vector<float>& values, const Bounds& bounds)
    : DeviceResidual(std::move(context), count, bounds) {
  if (values.empty()) {
    context_->accelerator().set_zero(memory_.get(), bytes(), context_->copies());
  } else {
    upload(values);
  }
  last_use_ = context_->record(context_->copies());
}

// Nothing waits: all goes back behind its last use, and copies that were given up.
DeviceResidual::~DeviceResidual() {
  try {
    const auto entered = context_->accelerator().enter();
    if (last_use_ != nullptr) context_->keep_until(*last_use_);
    context_->keep_until(*context_->record(context_->copies()));
    memory_.reset();
    answer_.reset();
  } catch (const Error& error) {  // The device is gone, and the memory with it.
    log_error(error.what());
  }
}

void DeviceResidual::set_last_use(std::shared_ptr<const DeviceEvent> event) {
  last_use_ = std::move(event);
  if (delivery_.is_asked && delivery_.done == nullptr) delivery_.done = last_use_;
}

float* DeviceResidual::ask_whether_void() {
  if (delivery_.is_asked) return nullptr;
  if (answer_ == nullptr) answer_ = context_->allocate_pinned(sizeof(float));
  delivery_.is_asked = true;
  return reinterpret_cast<float*>(answer_.get());
}

bool DeviceResidual::is_delivered() {
  if (delivery_.done == nullptr || !context_->accelerator().is_done(delivery_.done->event.get())) {
    return false;
  }
  if (*reinterpret_cast<const float*>(answer_.get()) == 0.0f) return true;
  forget_delivery();
  return false;
}

float* DeviceResidual::data() const noexcept { return reinterpret_cast<float*>(memory_.get()); }

std::size_t DeviceResidual::bytes() const noexcept {
  return static_cast<std::size_t>(count_) * sizeof(float);
}

// In the order of the copies.
AcceleratorMemory DeviceResidual::staging() const {
  return context_->pinned().allocate(std::min(bytes(), kPinnedBytes), context_->copies());
}

void DeviceResidual::upload(const std::vector<float>& values) {
  SCALECOM_ASSERT(static_cast<std::int64_t>(values.size()) == count_, "residual of another length");
  const auto source = std::as_bytes(std::span(values));
  const AcceleratorMemory pinned = staging();
  for (std::size_t at = 0; at < source.size(); at += kPinnedBytes) {
    const std::size_t piece = std::min(kPinnedBytes, source.size() - at);
    std::memcpy(pinned.get(), source.data() + at, piece);
    context_->accelerator().copy(memory_.get() + at, pinned.get(), piece, context_->copies());
    // Its memory may have been given back behind what waits for other ranks.
    wait_for_copies("a residual's way to the CUDA device", bounds_.interrupt);
  }
}

std::vector<float> DeviceResidual::read() const {
  Accelerator& accelerator = context_->accelerator();
  const auto entered = accelerator.enter();
  std::vector<float> values(static_cast<std::size_t>(count_));
  const auto target = std::as_writable_bytes(std::span(values));
  if (target.empty()) return values;
  accelerator.make_wait(context_->copies(), last_use_->event.get());
  const AcceleratorMemory pinned = staging();
  for (std::size_t at = 0; at < target.size(); at += kPinnedBytes) {
    const std::size_t piece = std::min(kPinnedBytes, target.size() - at);
    accelerator.copy(pinned.get(), memory_.get() + at, piece, context_->copies());
    // Behind the last use, which may wait for other ranks.
    wait_for_copies("a residual's way from the CUDA device", bounds_.interrupt);
    std::memcpy(target.data() + at, pinned.get(), piece);
  }
  return values;
}

// On the stream of the last use. The copies of others, for which the host waits, do not wait for
// it.
void DeviceResidual::scale(double multiply, double divide) {
  const auto entered = context_->accelerator().enter();
  const StreamHandle stream = last_use_->stream;
  context_->scale_copy(
      {memory_.get(), memory_.get(), count_, DataType::float32, {multiply, divide}}, stream);
  last_use_ = context_->record(stream);
}

void DeviceResidual::wait_for_copies(const char* what, Interrupt* interrupt) const {
  const auto end = context_->record(context_->copies());
  const WaitContext context{Deadline::after(bounds_.limit), interrupt};
  WaitLoop loop(context);
  while (!context_->accelerator().is_done(end->event.get())) loop.pause(what);
}

}  // namespace scalecom
