#include "runtime/tensor_queue.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.hpp"

namespace scalecom {
namespace {

// Of completed tensors: a training's next step has as many.
constexpr std::size_t kSpareNamesMax = 1024;

}  // namespace

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

void TensorQueue::check_open_locked(const std::string& name) const {
  if (is_closed_) throw Error(closed_status_);
  if (has_joined_) {
    throw Error(StatusCode::invalid_argument,
                "tensor " + name +
                    ": this rank has joined, and takes part with zeros in what the others submit; "
                    "wait for join() before submitting");
  }
}

void TensorQueue::check_room_locked(std::size_t count, const std::string& name) const {
  const auto in_flight = static_cast<std::int64_t>(in_flight_.size());
  if (in_flight + static_cast<std::int64_t>(count) <= capacity_) return;
  const std::string problem = count == 1
                                  ? ", the most that SCALECOM_QUEUE_CAPACITY allows"
                                  : " and " + std::to_string(count) + " more come as a group; " +
                                        std::to_string(capacity_) +
                                        " are the most that SCALECOM_QUEUE_CAPACITY allows";
  throw Error(StatusCode::invalid_argument, "tensor " + name + ": " + std::to_string(in_flight) +
                                                " tensors are in flight" + problem +
                                                "; wait for some of them, or raise it");
}

void TensorQueue::put_in_flight_locked(const std::string& name) {
  if (spare_names_.empty()) {
    if (in_flight_.insert(name).second) return;
  } else {
    spare_names_.back().value() = name;
    auto put = in_flight_.insert(std::move(spare_names_.back()));
    spare_names_.back() = std::move(put.node);
    if (put.inserted) return spare_names_.pop_back();
  }
  throw Error(StatusCode::invalid_argument,
              "tensor " + name +
                  ": a tensor of this name is in flight; wait for its ticket before submitting "
                  "the name again, or give each tensor its own name");
}

void TensorQueue::push(PendingTensor tensor) {
  const std::lock_guard lock(mutex_);
  check_open_locked(tensor.name);
  check_room_locked(1, tensor.name);
  put_in_flight_locked(tensor.name);
  has_joined_ = tensor.signature.kind == OperationKind::join;
  tensors_.push_back(std::move(tensor));
  add_locked();
}

void TensorQueue::push_group(std::vector<PendingTensor> tensors) {
  if (tensors.empty()) return;
  const std::lock_guard lock(mutex_);
  check_open_locked(tensors.front().name);
  check_room_locked(tensors.size(), tensors.front().name);
  const auto first = tensors_.insert(tensors_.end(), std::move_iterator(tensors.begin()),
                                     std::move_iterator(tensors.end()));
  auto next = first;
  try {
    for (; next != tensors_.end(); ++next) put_in_flight_locked(next->name);
  } catch (...) {
    for (auto taken = first; taken != next; ++taken) in_flight_.erase(taken->name);
    tensors_.erase(first, tensors_.end());
    throw;
  }
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
    for (const PendingTensor* tensor : tensors) {
      auto name = in_flight_.extract(tensor->name);
      if (name && spare_names_.size() < kSpareNamesMax) spare_names_.push_back(std::move(name));
      if (tensor->signature.kind == OperationKind::join) has_joined_ = false;
    }
  }
  // The members of a group come together.
  for (auto first = tensors.begin(); first != tensors.end();) {
    const auto& ticket = (*first)->ticket;
    const auto end = std::find_if(first, tensors.end(), [&](const PendingTensor* tensor) {
      return tensor->ticket != ticket;
    });
    ticket->complete(status, static_cast<std::size_t>(end - first));
    first = end;
  }
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
