#include "runtime/device/posting_thread.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/wait.hpp"
#include "runtime/start_thread.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr auto kThreadName = "scalecom-nccl";

enum class Phase : int { asleep, awake, called, ending };

// Called, or ending. Without an end of its own: the owner's end wakes it.
Phase next_of(std::atomic<Phase>& phase) {
  const WaitContext always{Deadline(TimePoint::max()), nullptr};
  WaitLoop loop(always);
  for (;;) {
    Phase seen = phase.load(std::memory_order_acquire);
    if (seen == Phase::called || seen == Phase::ending) return seen;
    if (seen == Phase::asleep) {
      phase.wait(Phase::asleep);
      loop.restart();
    } else if (loop.pause_or_sleep_time("").count() > 0) {
      phase.compare_exchange_strong(seen, Phase::asleep);
    }
  }
}

}  // namespace

struct PostingThread::Shared {
  std::function<std::shared_ptr<void>()> enter;
  std::atomic<Phase> phase{Phase::asleep};
  // The thread's while `phase` is `called`, else the caller's:
  Call call;
  device::nccl::Result result = device::nccl::Result::success;
  std::optional<Error> error;

  void set(Phase next) {
    phase.store(next, std::memory_order_release);
    phase.notify_one();
  }
  bool is_free() const { return phase.load(std::memory_order_acquire) != Phase::called; }
  bool is_free_by(Deadline deadline) const {
    const WaitContext context{deadline, nullptr};
    WaitLoop loop(context);
    try {
      while (!is_free()) loop.pause("a call");
      return true;
    } catch (const Error&) {
      return false;
    }
  }
};

PostingThread::PostingThread(std::function<std::shared_ptr<void>()> enter, Patience patience)
    : patience_(patience), shared_(std::make_shared<Shared>()) {
  shared_->enter = std::move(enter);
  thread_ = start_thread("NCCL's calls", [shared = shared_] { work(*shared); });
  pthread_setname_np(thread_.native_handle(), kThreadName);
}

PostingThread::~PostingThread() {
  if (!shared_->is_free_by(Deadline::after(patience_.at_end))) {
    log_warning(
        "NCCL does not come back from a call whose communicator was aborted: its thread is left "
        "there until the process ends");
    thread_.detach();
  }
  shared_->set(Phase::ending);
  if (thread_.joinable()) thread_.join();
}

void PostingThread::start(Call call) {
  SCALECOM_ASSERT(shared_->is_free(), "a call before the end of the one before it");
  shared_->call = std::move(call);
  shared_->error.reset();
  shared_->set(Phase::called);
}

std::optional<device::nccl::Result> PostingThread::result() {
  if (!shared_->is_free()) return std::nullopt;
  if (shared_->error) throw Error(*shared_->error);
  return shared_->result;
}

bool PostingThread::give_up() noexcept {
  return shared_->is_free_by(Deadline::after(patience_.when_given_up));
}

void PostingThread::get_ready() noexcept {
  Phase expected = Phase::asleep;
  if (shared_->phase.compare_exchange_strong(expected, Phase::awake)) shared_->phase.notify_one();
}

void PostingThread::work(Shared& shared) {
  std::shared_ptr<void> entered;
  while (next_of(shared.phase) == Phase::called) {
    try {
      if (shared.enter) {
        entered = shared.enter();
        shared.enter = nullptr;
      }
      shared.result = shared.call();
    } catch (const Error& error) {
      shared.error = error;
    } catch (const std::exception& error) {
      shared.error = Error(StatusCode::internal, error.what());
    }
    shared.call = nullptr;
    // Unless the owner has left meanwhile.
    Phase expected = Phase::called;
    shared.phase.compare_exchange_strong(expected, Phase::awake, std::memory_order_acq_rel);
  }
}

}  // namespace scalecom
