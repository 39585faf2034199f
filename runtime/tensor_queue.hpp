#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "runtime/device/device_context.hpp"
#include "runtime/negotiation.hpp"
#include "runtime/ticket_state.hpp"
#include "runtime/timeline/tensor_times.hpp"
#include "runtime/wake_up.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// In flight while this rank has joined.
inline constexpr const char* kJoinName = "scalecom.join";

/// A submitted tensor on its way through the coordinator, with its data and its promise.
struct PendingTensor {
  std::string name;
  TensorSignature signature;
  TensorView input;
  TensorView output;
  std::shared_ptr<TicketState> ticket;
  std::vector<std::int64_t> splits = {};  ///< all_to_all: see TensorRequest
  /// Where compression was asked for and goes dense: the filter's, for a restored residual. Else 0.
  double beta = 0.0;
  /// On a CUDA device: behind it the input may be used.
  std::shared_ptr<const DeviceEvent> ready = nullptr;
  TensorTimes times = {};
  std::shared_ptr<std::byte[]> zeros = nullptr;  ///< of a substitute: what its views are of
};

/// Work for the coordinator's thread that is not a tensor: end the session, read a residual.
using CoordinatorTask = std::function<void()>;

/// The way in: application threads push, the coordinator drains. The only lock there is on it.
/// Also knows the names in flight, so that a name is refused until its ticket has completed.
class TensorQueue {
 public:
  explicit TensorQueue(std::int64_t capacity) : capacity_(capacity) {}

  /// Throws Error: invalid_argument for a name in flight, a full queue, and while this rank has
  /// joined; the session's end when closed. Wakes a thread that sleeps for it.
  void push(PendingTensor tensor);

  /// As push() of each, under one lock, or of none of them: what it throws for one tensor holds for
  /// all. The coordinator finds them together.
  void push_group(std::vector<PendingTensor> tensors);

  /// False when the queue is closed; the task is then not kept.
  bool push_task(CoordinatorTask task);

  /// As push_task(), for a task that does not wait for the batch in execution and touches nothing
  /// of it.
  bool push_urgent_task(CoordinatorTask task);

  struct Drained {
    std::vector<PendingTensor> tensors;
    std::vector<CoordinatorTask> tasks;
    std::vector<CoordinatorTask> urgent_tasks;
    bool is_empty() const noexcept {
      return tensors.empty() && tasks.empty() && urgent_tasks.empty();
    }
  };
  /// Everything pushed since the last call. The thread that drives.
  Drained drain();

  /// Anything to drain? One atomic read.
  bool has_items() const noexcept { return has_items_.load(); }

  /// Completes the tickets with `status`; their names may be submitted again.
  void complete(std::span<const PendingTensor* const> tensors, const Status& status);

  /// Refuses further pushes with `status` and returns what was still queued.
  Drained close(const Status& status);

  /// Ok while open; then what close() was given.
  Status closed_status() const;

  /// Around a sleep on wake_up(): only then pushes make it readable. start_sleep() returns false,
  /// and there is nothing to end, when there is something to drain already.
  bool start_sleep() noexcept;
  void end_sleep() noexcept { sleepers_.fetch_sub(1); }
  /// Makes it readable until the next drain() without anything to drain, if a thread sleeps.
  void wake_sleepers();

  const WakeUp& wake_up() const noexcept { return wake_up_; }

 private:
  void add_locked();
  void signal_locked();
  void check_open_locked(const std::string& name) const;
  void check_room_locked(std::size_t count, const std::string& name) const;
  void put_in_flight_locked(const std::string& name);
  Drained take_locked();

  const std::int64_t capacity_;
  WakeUp wake_up_;
  std::atomic<bool> has_items_{false};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> is_signalled_{false};
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<PendingTensor> tensors_;
  std::vector<CoordinatorTask> tasks_;
  std::vector<CoordinatorTask> urgent_tasks_;
  std::unordered_set<std::string> in_flight_;
  std::vector<std::unordered_set<std::string>::node_type> spare_names_;
  bool has_joined_ = false;
  bool is_closed_ = false;
  Status closed_status_;
};

}  // namespace scalecom
