#include "runtime/tensor_queue.hpp"

#include <utility>

#include "base/error.hpp"

namespace scalecom {

void TensorQueue::push(PendingTensor tensor) {
  bool was_empty = false;
  {
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
    was_empty = tensors_.empty() && tasks_.empty();
    tensors_.push_back(std::move(tensor));
    has_items_.store(true, std::memory_order_release);
  }
  if (was_empty) wake_up_.signal();
}

bool TensorQueue::push_task(CoordinatorTask task) {
  {
    const std::lock_guard lock(mutex_);
    if (is_closed_) return false;
    tasks_.push_back(std::move(task));
    has_items_.store(true, std::memory_order_release);
  }
  wake_up_.signal();
  return true;
}

TensorQueue::Drained TensorQueue::take_locked() {
  has_items_.store(false, std::memory_order_release);
  return {std::exchange(tensors_, {}), std::exchange(tasks_, {})};
}

TensorQueue::Drained TensorQueue::drain() {
  if (!has_items()) return {};
  // Cleared before the items are taken: a push in between signals again.
  wake_up_.clear();
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
