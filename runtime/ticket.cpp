#include "scalecom/ticket.hpp"

#include <sched.h>

#include <utility>

#include "base/error.hpp"
#include "runtime/ticket_state.hpp"

namespace scalecom {
namespace {

// A wait looks this often, giving the core away in between, before it sleeps: a small all-reduce
// completes within it, which saves the two thread switches of sleeping (2 to 30 us each).
constexpr auto kPollTime = std::chrono::microseconds(20);

}  // namespace

void TicketState::set_output(std::unique_ptr<std::byte[]> data, TensorView view,
                             std::vector<std::int64_t> received_splits) {
  output_data_ = std::move(data);
  output_ = std::move(view);
  output_.data = output_data_.get();
  received_splits_ = std::move(received_splits);
}

void TicketState::complete(Status status) {
  {
    const std::lock_guard lock(mutex_);
    SCALECOM_ASSERT(!is_ready_.load(std::memory_order_relaxed),
                    "completed as " + status_.message() + ", now " + status.message());
    status_ = std::move(status);
    is_ready_.store(true, std::memory_order_release);
  }
  completed_.notify_all();
}

std::optional<Status> TicketState::wait_until(std::optional<Deadline> deadline) const {
  for (const Deadline poll_end = Deadline::after(kPollTime); !is_ready();) {
    if (poll_end.has_passed()) break;
    sched_yield();
  }
  std::unique_lock lock(mutex_);
  const auto is_done = [this] { return is_ready_.load(std::memory_order_relaxed); };
  if (!deadline) {
    completed_.wait(lock, is_done);
  } else if (!completed_.wait_until(lock, deadline->at(), is_done)) {
    return std::nullopt;
  }
  return status_;
}

TensorView TicketState::output() const {
  SCALECOM_ASSERT(is_ready(), "output() of a ticket that is not complete");
  const std::lock_guard lock(mutex_);
  return output_;
}

std::vector<std::int64_t> TicketState::received_splits() const {
  SCALECOM_ASSERT(is_ready(), "received_splits() of a ticket that is not complete");
  const std::lock_guard lock(mutex_);
  return received_splits_;
}

Ticket::Ticket(std::shared_ptr<TicketState> state) : state_(std::move(state)) {}

bool Ticket::is_ready() const noexcept { return state_->is_ready(); }

// The coordinator bounds this wait: it completes every ticket when the session ends or fails.
Status Ticket::wait() const { return *state_->wait_until(std::nullopt); }

Status Ticket::wait_for(std::chrono::milliseconds limit) const {
  auto status = state_->wait_until(Deadline::after(limit));
  if (status) return *std::move(status);
  return Status(StatusCode::timed_out,
                "the operation had not completed after " + std::to_string(limit.count()) + " ms");
}

TensorView Ticket::output() const { return state_->output(); }

std::vector<std::int64_t> Ticket::received_splits() const { return state_->received_splits(); }

}  // namespace scalecom
