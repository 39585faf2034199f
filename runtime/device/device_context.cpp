#include "runtime/device/device_context.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/wait.hpp"

namespace scalecom {
namespace {

constexpr auto kEndTime = std::chrono::seconds(2);

}  // namespace

std::shared_ptr<void> enter_to_give_back(Accelerator& accelerator) noexcept {
  try {
    return accelerator.enter();
  } catch (const Error& error) {
    log_warning(error.what());
    return {};
  }
}

DeviceContext::DeviceContext(std::unique_ptr<Accelerator> accelerator)
    : accelerator_(std::move(accelerator)) {
  const auto entered = accelerator_->enter();
  copies_ = accelerator_->make_stream();
  ends_ = accelerator_->make_stream();
  pinned_ = std::make_unique<PinnedPool>(*accelerator_);
}

DeviceContext::~DeviceContext() {
  try {
    const auto entered = accelerator_->enter();
    const WaitContext context{Deadline::after(kEndTime), nullptr};
    WaitLoop loop(context);
    for (const Table& table : tables_) {
      while (!accelerator_->is_done(table.used.get())) loop.pause("the last use of a table");
    }
    tables_.clear();
    pinned_.reset();
  } catch (const Error& error) {  // They stay: what cannot be seen to be done may be in use.
    log_warning(error.what());
    for (Table& table : tables_) table.table.release();
  }
}

// Numbered under the lock: of two threads that record on one stream, the later has the higher one.
std::shared_ptr<const DeviceEvent> DeviceContext::record(StreamHandle stream) {
  const auto entered = accelerator_->enter();
  const std::lock_guard lock(mutex_);
  std::unique_ptr<DeviceEvent> event;
  if (idle_.empty()) {
    event = std::make_unique<DeviceEvent>();
    event->event = accelerator_->make_event();
  } else {
    event = std::move(idle_.back());
    idle_.pop_back();
  }
  event->stream = stream;
  event->number = ++recorded_;
  accelerator_->record(event->event.get(), stream);
  return {event.release(), [self = shared_from_this()](const DeviceEvent* done) {
            self->give_back(const_cast<DeviceEvent*>(done));
          }};
}

void DeviceContext::give_back(DeviceEvent* event) {
  const std::lock_guard lock(mutex_);
  idle_.emplace_back(event);
}

AcceleratorMemory DeviceContext::allocate(std::size_t bytes, StreamHandle stream) {
  return accelerator_->allocate(bytes, {stream, ends_.get()});
}

AcceleratorMemory DeviceContext::allocate_pinned(std::size_t bytes) {
  return pinned_->allocate(bytes, ends_.get());
}

std::shared_ptr<std::byte[]> DeviceContext::allocate_result(std::size_t bytes,
                                                            StreamHandle stream) {
  const auto entered = accelerator_->enter();
  auto memory =
      std::make_shared<AcceleratorMemory>(allocate(std::max<std::size_t>(bytes, 1), stream));
  std::byte* const data = memory->get();
  return {data, [self = shared_from_this(), memory = std::move(memory)](std::byte*) {
            const auto inside = enter_to_give_back(*self->accelerator_);
            memory->reset();
          }};
}

void DeviceContext::copy(void* destination, const std::byte* result, std::size_t bytes,
                         StreamHandle stream) {
  const auto entered = accelerator_->enter();
  accelerator_->copy(destination, result, bytes, stream);
  keep_until(*record(stream));
}

void DeviceContext::scale_copy(const CopyTensor& tensor, StreamHandle stream) {
  const auto entered = accelerator_->enter();
  const std::lock_guard lock(mutex_);
  Table& table = idle_table(stream);
  table.table->assign({&tensor, 1}, stream);
  table.table->scale_copy(stream);
  accelerator_->record(table.used.get(), stream);
}

// With the lock held.
DeviceContext::Table& DeviceContext::idle_table(StreamHandle stream) {
  const auto found = std::ranges::find_if(
      tables_, [this](const Table& table) { return accelerator_->is_done(table.used.get()); });
  if (found != tables_.end()) return *found;
  Table table{accelerator_->make_copy_table(1, copies(), pinned_.get()),
              accelerator_->make_event()};
  accelerator_->record(table.used.get(), copies());
  accelerator_->make_wait(stream, table.used.get());
  return tables_.emplace_back(std::move(table));
}

void DeviceContext::keep_until(const DeviceEvent& event) {
  const auto entered = accelerator_->enter();
  accelerator_->make_wait(ends_.get(), event.event.get());
}

TimePoint DeviceContext::limit_kept(TimePoint now) {
  if (now < next_limit_) return next_limit_;
  const auto entered = accelerator_->enter();
  accelerator_->limit_kept();
  next_limit_ = now + kKeptTime;
  return next_limit_;
}

DeviceContext::Zeros DeviceContext::allocate_zeros(std::size_t bytes) {
  const auto entered = accelerator_->enter();
  Zeros zeros{allocate_result(bytes, copies()), nullptr};
  accelerator_->set_zero(zeros.memory.get(), bytes, copies());
  zeros.ready = record(copies());
  keep_until(*zeros.ready);  // They may go without a use.
  return zeros;
}

std::shared_ptr<DeviceContext> SessionDevice::context() const {
  const std::lock_guard lock(mutex_);
  return context_;
}

std::shared_ptr<const DeviceCosts> SessionDevice::costs() const {
  const std::lock_guard lock(mutex_);
  return costs_;
}

void SessionDevice::set_costs(const DeviceCosts& costs) {
  const std::lock_guard lock(mutex_);
  costs_ = std::make_shared<const DeviceCosts>(costs);
}

std::shared_ptr<DeviceContext> SessionDevice::acquire(int index) {
  const std::lock_guard lock(mutex_);
  if (context_ == nullptr) context_ = std::make_shared<DeviceContext>(make_(index));
  const int mine = context_->accelerator().index();
  if (mine != index) {
    throw Error(
        StatusCode::invalid_argument,
        fmt::format("it is on CUDA device {}, but this session works on device {}, "
                    "where its first tensor, or its join(), was; give each rank one device, as "
                    "torch.cuda.set_device(local_rank) or JAX's setting "
                    "jax_cuda_visible_devices do",
                    index, mine));
  }
  return context_;
}

}  // namespace scalecom
