#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "scalecom/export.hpp"
#include "scalecom/status.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

class TicketState;

/// The promise of one submitted operation: completes exactly once, with a value or an error,
/// shutdown included. Copies share the promise. Every method may be called from any thread.
class SCALECOM_API Ticket {
 public:
  explicit Ticket(std::shared_ptr<TicketState> state);

  /// True once the operation has completed, well or badly, and in a process forked from the
  /// session's, where wait() fails at once. Never blocks.
  bool is_ready() const noexcept;

  /// Blocks, asleep, until completion and returns the outcome. Bounded: the session fails every
  /// ticket when a rank is lost, at shutdown, and when the stall shutdown time passes.
  Status wait() const;

  /// As wait(), but gives up after `limit` with StatusCode::timed_out; the operation goes on.
  Status wait_for(std::chrono::milliseconds limit) const;

  /// Calls `callback` once, when the operation has completed: in the thread that completes it, or
  /// here where it has. It may look at the ticket, give it up and submit. It must neither wait,
  /// for this thread is the one that others wait for, nor throw.
  void on_complete(std::function<void()> callback) const;

  /// The result of an operation whose size only the agreement of all ranks fixes (all_gather,
  /// reduce_scatter, all_to_all), and of join(): owned by the ticket, valid while a copy of it
  /// lives. Empty data for other operations.
  /// Requires is_ready().
  TensorView output() const;

  /// For tensors on a CUDA device, whose ticket completes when all has been enqueued there: what is
  /// enqueued on `stream` (a cudaStream_t) from now on comes behind the results. The host does not
  /// wait. Requires is_ready(). Nothing for tensors in the host's memory.
  void make_wait(void* stream) const;

  /// Copies output() to `destination`, which is of the same device and as long; on a CUDA device in
  /// the order of `stream`, behind the results. Requires is_ready().
  void copy_output(void* destination, void* stream) const;

  /// all_to_all: the rows of output() that came from each rank, in rank order. Empty for other
  /// operations, and when it failed. Requires is_ready().
  std::vector<std::int64_t> received_splits() const;

 private:
  std::shared_ptr<TicketState> state_;
};

}  // namespace scalecom
