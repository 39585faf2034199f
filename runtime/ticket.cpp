#include "scalecom/ticket.hpp"

#include <cstring>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "runtime/ticket_state.hpp"

namespace scalecom {
void TicketState::set_output(std::shared_ptr<std::byte[]> data, TensorView view,
                             std::vector<std::int64_t> received_splits) {
  output_data_ = std::move(data);
  output_ = std::move(view);
  output_.data = output_data_.get();
  received_splits_ = std::move(received_splits);
}

// Whoever calls it holds a reference: a callback may give up the last one beside it.
void TicketState::complete(Status status, std::size_t members) {
  std::vector<std::function<void()>> callbacks;
  {
    const std::lock_guard lock(mutex_);
    SCALECOM_ASSERT(members_left_ >= members,
                    "completed as " + status_.message() + ", now " + status.message());
    if (status_.is_ok()) status_ = std::move(status);
    members_left_ -= members;
    if (members_left_ > 0) return;
    is_ready_.store(true, std::memory_order_release);
    callbacks = std::move(callbacks_);
  }
  completed_.notify_all();
  for (const auto& callback : callbacks) callback();
}

void TicketState::on_complete(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (!is_ready()) callbacks_.push_back(std::exchange(callback, nullptr));
  }
  if (callback != nullptr) return callback();
  // Nobody waits for it: the session's thread is to see to it.
  if (seat_ != nullptr) seat_->look_in_vain();
}

bool TicketState::look() const {
  if (is_ready()) return true;
  if (seat_ == nullptr) return false;
  if (!seat_->owner().is_here()) return true;  // wait_until() says at once what is wrong.
  seat_->look_in_vain();
  return false;
}

std::optional<Status> TicketState::wait_until(Deadline deadline) const {
  if (!is_ready() && seat_ != nullptr) {
    if (const Status other = seat_->owner().status(); !other.is_ok()) return other;
    seat_->drive_until([this] { return is_ready(); }, deadline);
  }
  std::unique_lock lock(mutex_);
  const auto is_done = [this] { return is_ready_.load(std::memory_order_relaxed); };
  if (!completed_.wait_until(lock, deadline.at(), is_done)) return std::nullopt;
  return status_;
}

// In a forked process look() is true of what has not completed.
void TicketState::check_completed(const char* what) const {
  if (is_ready()) return;
  if (seat_ != nullptr) seat_->owner().check();
  SCALECOM_ASSERT(is_ready(), std::string(what) + " of a ticket that is not complete");
}

TensorView TicketState::output() const {
  check_completed("output()");
  const std::lock_guard lock(mutex_);
  return output_;
}

std::vector<std::int64_t> TicketState::received_splits() const {
  check_completed("received_splits()");
  const std::lock_guard lock(mutex_);
  return received_splits_;
}

// A result that nobody has copied may still be written.
TicketState::~TicketState() {
  if (device_ == nullptr || output_data_ == nullptr) return;
  try {
    for (const auto& done : device_results_) device_->keep_until(*done);
  } catch (const Error&) {  // The device is gone, and nothing is written there any more.
  }
}

void TicketState::add_device_result(std::shared_ptr<DeviceContext> context,
                                    std::shared_ptr<const DeviceEvent> done) {
  const std::lock_guard lock(mutex_);
  device_ = std::move(context);
  device_results_.push_back(std::move(done));
}

void TicketState::make_wait(StreamHandle stream) const {
  check_completed("make_wait()");
  const std::lock_guard lock(mutex_);
  if (device_ == nullptr) return;
  const auto entered = device_->accelerator().enter();
  for (const auto& done : device_results_) {
    device_->accelerator().make_wait(stream, done->event.get());
  }
}

void TicketState::copy_output(void* destination, StreamHandle stream) const {
  make_wait(stream);
  const std::lock_guard lock(mutex_);
  const auto bytes = static_cast<std::size_t>(output_.bytes());
  if (output_.data == nullptr || bytes == 0) return;
  if (device_ == nullptr) {
    std::memcpy(destination, output_.data, bytes);
  } else {
    device_->copy(destination, static_cast<const std::byte*>(output_.data), bytes, stream);
  }
}

Ticket::Ticket(std::shared_ptr<TicketState> state) : state_(std::move(state)) {}

bool Ticket::is_ready() const noexcept { return state_->look(); }

// The coordinator bounds this wait: it completes every ticket when the session ends or fails.
Status Ticket::wait() const {
  for (;;) {
    if (auto status = state_->wait_until(Deadline::after(std::chrono::hours(1)))) {
      return *std::move(status);
    }
  }
}

Status Ticket::wait_for(std::chrono::milliseconds limit) const {
  auto status = state_->wait_until(Deadline::after(limit));
  if (status) return *std::move(status);
  return Status(StatusCode::timed_out,
                "the operation had not completed after " + std::to_string(limit.count()) + " ms");
}

void Ticket::on_complete(std::function<void()> callback) const {
  // The callback may give up the ticket, here or at once on another thread.
  const std::shared_ptr<TicketState> state = state_;
  state->on_complete(std::move(callback));
}

TensorView Ticket::output() const { return state_->output(); }

void Ticket::make_wait(void* stream) const { state_->make_wait(static_cast<StreamHandle>(stream)); }

void Ticket::copy_output(void* destination, void* stream) const {
  state_->copy_output(destination, static_cast<StreamHandle>(stream));
}

std::vector<std::int64_t> Ticket::received_splits() const { return state_->received_splits(); }

}  // namespace scalecom
