#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace scalecom {

/// Threads that share a loop of pure computing with its caller and sleep otherwise.
class WorkerPool {
 public:
  /// `threads` counts the caller's: 1 starts none.
  explicit WorkerPool(int threads);
  ~WorkerPool();

  /// Calls body(i) once for each i below `count`, on any of the threads; returns when all calls
  /// have returned, and throws what the first of those that threw has thrown. One caller at a time.
  void run(std::size_t count, const std::function<void(std::size_t)>& body);

 private:
  void work(const std::stop_token& stop);
  void take_calls(std::size_t count, const std::function<void(std::size_t)>& body);

  std::atomic<std::size_t> next_{0};
  std::mutex mutex_;
  // Under the mutex:
  std::condition_variable_any wake_;
  std::condition_variable_any done_;
  std::uint64_t loops_ = 0;  ///< started so far
  std::size_t count_ = 0;
  const std::function<void(std::size_t)>* body_ = nullptr;
  std::size_t busy_ = 0;  ///< workers that have not finished the loop
  std::exception_ptr error_;
  // Last: they use the rest.
  std::vector<std::jthread> workers_;
};

}  // namespace scalecom
