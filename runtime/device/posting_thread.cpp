#include "runtime/device/posting_thread.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <utility>

#include "base/log.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr auto kThreadName = "scalecom-nccl";

enum class Phase : int { idle, called, ending };

Phase next_of(const std::atomic<Phase>& phase) {
  const WaitContext always{Deadline(TimePoint::max()), nullptr};
  WaitLoop loop(always);
  while (phase.load(std::memory_order_acquire) == Phase::idle) {
    if (loop.pause_or_sleep_time("").count() > 0) phase.wait(Phase::idle);
  }
  return phase.load(std::memory_order_acquire);
}

}  // namespace

struct PostingThread::Shared {
  std::function<std::shared_ptr<void>()> enter;
  std::atomic<Phase> phase{Phase::idle};
  // The thread's while `phase` is `called`, else the caller's:
  Call call;
  device::nccl::Result result = device::nccl::Result::success;
  std::optional<Error> error;

  void set(Phase next) {
    phase.store(next, std::memory_order_release);
    phase.notify_one();
  }
  void wait_until_free(std::string_view what, const WaitContext& context) const {
    WaitLoop loop(context);
    while (phase.load(std::memory_order_acquire) == Phase::called) loop.pause(what);
  }
  void let_come_back(Deadline deadline) const {
    const WaitContext context{deadline, nullptr};
    try {
      wait_until_free("", context);
    } catch (const Error&) {
      // It does not: the caller knows why it gave up, and aborts.
    }
  }
};

PostingThread::PostingThread(std::function<std::shared_ptr<void>()> enter, Patience patience)
    : patience_(patience), shared_(std::make_shared<Shared>()) {
  shared_->enter = std::move(enter);
  thread_ = std::thread([shared = shared_] { work(*shared); });
  pthread_setname_np(thread_.native_handle(), kThreadName);
}

PostingThread::~PostingThread() {
  const WaitContext context{Deadline::after(patience_.after_abort), nullptr};
  try {
    shared_->wait_until_free("NCCL: the end of an aborted call", context);
  } catch (const Error& error) {
    log_warning(std::string(error.what()) + "; its thread is left there until the process ends");
    thread_.detach();
  }
  shared_->set(Phase::ending);
  if (thread_.joinable()) thread_.join();
}

device::nccl::Result PostingThread::run(Call call, std::string_view what,
                                        const WaitContext& context) {
  shared_->wait_until_free(what, context);
  shared_->call = std::move(call);
  shared_->error.reset();
  shared_->set(Phase::called);
  try {
    shared_->wait_until_free(what, context);
  } catch (const Error&) {
    shared_->let_come_back(Deadline::after(patience_.before_abort));
    throw;
  }
  if (shared_->error) throw Error(*shared_->error);
  return shared_->result;
}

void PostingThread::work(Shared& shared) {
  std::shared_ptr<void> entered;
  while (next_of(shared.phase) == Phase::called) {
    try {
      if (shared.enter) entered = std::exchange(shared.enter, nullptr)();
      shared.result = shared.call();
    } catch (const Error& error) {
      shared.error = error;
    }
    shared.call = nullptr;
    // Unless the owner has left meanwhile.
    Phase expected = Phase::called;
    shared.phase.compare_exchange_strong(expected, Phase::idle, std::memory_order_acq_rel);
  }
}

}  // namespace scalecom
