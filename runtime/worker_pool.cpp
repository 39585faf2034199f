#include "runtime/worker_pool.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "runtime/start_thread.hpp"

namespace scalecom {

WorkerPool::WorkerPool(int threads) {
  SCALECOM_ASSERT(threads >= 1, fmt::format("{} threads", threads));
  for (int i = 1; i < threads; ++i) {
    workers_.push_back(start_thread<std::jthread>(
        "SCALECOM_COMPRESS_THREADS", [this](const std::stop_token& stop) { work(stop); }));
  }
}

WorkerPool::~WorkerPool() = default;

// The wait for the workers is one for their computing, which ends by itself.
void WorkerPool::run(std::size_t count, const std::function<void(std::size_t)>& body) {
  if (workers_.empty() || count <= 1) {
    for (std::size_t i = 0; i < count; ++i) body(i);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    next_ = 0;
    count_ = count;
    body_ = &body;
    busy_ = workers_.size();
    ++loops_;
  }
  wake_.notify_all();
  take_calls(count, body);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void WorkerPool::work(const std::stop_token& stop) {
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (wake_.wait(lock, stop, [&] { return loops_ != seen; })) {
    seen = loops_;
    const std::size_t count = count_;
    const auto& body = *body_;
    lock.unlock();
    take_calls(count, body);
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

void WorkerPool::take_calls(std::size_t count, const std::function<void(std::size_t)>& body) {
  for (std::size_t i = next_++; i < count; i = next_++) {
    try {
      body(i);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
}

}  // namespace scalecom
