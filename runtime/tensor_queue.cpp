#include "runtime/tensor_queue.hpp"

#include <utility>

#include "base/error.hpp"

namespace scalecom {

// Sequentially consistent with start_sleep(): either this thread sees the sleeper, or that one the
// items. A signal costs a system call, and nobody needs one while a thread drives.
void TensorQueue::add_locked() {
  if (!has_items_.exchange(true) && sleepers_.load() > 0) signal_locked();
}

// Given and taken back under the lock: a late signal would wake an idle session for ever.
void TensorQueue::signal_locked() {
  if (!is_signalled_.exchange(true)) wake_up_.signal();
}

bool TensorQueue::start_sleep() noexcept {
  sleepers_.fetch_add(1);
  if (!has_items()) return true;
  end_sleep();
  return false;
}

void TensorQueue::wake_sleepers() {
  const std::lock_guard lock(mutex_);
  if (sleepers_.load() > 0) signal_locked();
}

void TensorQueue::push(PendingTensor tensor) {
  const std::lock_guard lock(mutex_);
  if (is_closed_) throw Error(closed_status_.code(), closed_status_.message());
  if (static_cast<std::int64_t>(in_flight_.size()) >= capacity_) {
    throw Error(StatusCode::invalid_argument,
                "tensor " + tensor.name + ": " + std::to_string(capacity_) +
                    " tensors are in flight, the most that SCALECOM_QUEUE_CAPACITY allows; wait "
                    "for some of them, or raise it");
  }
  if (!in_flight_.insert(tensor.name).second) {
    throw Error(StatusCode::invalid_argument,
                "tensor " + tensor.name +
                    ": a tensor of this name is in flight; wait for its ticket before submitting "
                    "the name again, or give each tensor its own name");
  }
  tensors_.push_back(std::move(tensor));
  add_locked();
}

bool TensorQueue::push_task(CoordinatorTask task) {
  const std::lock_guard lock(mutex_);
  if (is_closed_) return false;
  tasks_.push_back(std::move(task));
  add_locked();
  return true;
}

bool TensorQueue::push_urgent_task(CoordinatorTask task) {
  const std::lock_guard lock(mutex_);
  if (is_closed_) return false;
  urgent_tasks_.push_back(std::move(task));
  add_locked();
  return true;
}

TensorQueue::Drained TensorQueue::take_locked() {
  has_items_ = false;
  if (is_signalled_.exchange(false)) wake_up_.clear();
  return {std::exchange(tensors_, {}), std::exchange(tasks_, {}), std::exchange(urgent_tasks_, {})};
}

TensorQueue::Drained TensorQueue::drain() {
  if (!has_items() && !is_signalled_.load()) return {};
  const std::lock_guard lock(mutex_);
  return take_locked();
}

void TensorQueue::complete(std::span<const PendingTensor* const> tensors, const Status& status) {
  {
    const std::lock_guard lock(mutex_);
    for (const PendingTensor* tensor : tensors) in_flight_.erase(tensor->name);
  }
  for (const PendingTensor* tensor : tensors) tensor->ticket->complete(status);
}

TensorQueue::Drained TensorQueue::close(const Status& status) {
  const std::lock_guard lock(mutex_);
  is_closed_ = true;
  closed_status_ = status;
  return take_locked();
}

Status TensorQueue::closed_status() const {
  const std::lock_guard lock(mutex_);
  return closed_status_;
}

}  // namespace scalecom
