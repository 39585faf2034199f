#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.hpp"

namespace scalecom::sim {

/// A call that waits inside, in pieces: it runs on a thread of its own, but only while its owner
/// waits for it to pause. So of both one runs at a time, and nothing depends on threads.
class SteppedCall {
 public:
  explicit SteppedCall(std::function<void()> body)
      : thread_([this, body = std::move(body)] {
          wait_for(Turn::call);
          try {
            if (!is_ending_) body();
          } catch (...) {
            failure_ = std::current_exception();
          }
          is_over_ = true;
          give(Turn::owner);
        }) {}
  /// Where it pauses it is told to end.
  ~SteppedCall() {
    is_ending_ = true;
    while (!is_over_) run();
    thread_.join();
  }
  SteppedCall(const SteppedCall&) = delete;
  SteppedCall& operator=(const SteppedCall&) = delete;

  /// Goes on until it pauses; true: it has returned. Throws what it has thrown.
  bool resume() {
    if (!is_over_) run();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return is_over_;
  }

  /// From within the call.
  void pause() {
    give(Turn::owner);
    wait_for(Turn::call);
    if (is_ending_) throw Error(StatusCode::shut_down, "the call is given up");
  }

 private:
  enum class Turn { owner, call };

  void run() {
    give(Turn::call);
    wait_for(Turn::owner);
  }
  void give(Turn next) {
    const std::lock_guard lock(mutex_);
    turn_ = next;
    changed_.notify_one();
  }
  void wait_for(Turn own) {
    constexpr auto kLimit = std::chrono::minutes(1);
    std::unique_lock lock(mutex_);
    const bool has_come = changed_.wait_for(lock, kLimit, [&] { return turn_ == own; });
    SCALECOM_ASSERT(has_come, "a call that does not pause, or is not resumed");
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Turn turn_ = Turn::owner;
  // Whose turn it is may touch these.
  bool is_ending_ = false;
  bool is_over_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace scalecom::sim
