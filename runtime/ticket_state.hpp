#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/deadline.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/driver_seat.hpp"
#include "scalecom/status.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// What the copies of one Ticket and the coordinator share. Completed by the coordinator's thread
/// (or by the closing queue); read by any thread.
class TicketState {
 public:
  /// A waiting thread takes this seat, if it can; null: it only waits. A group's ticket is ready
  /// when all its members are.
  explicit TicketState(std::shared_ptr<DriverSeat> seat, std::size_t members = 1)
      : seat_(std::move(seat)), is_ready_(members == 0), members_left_(members) {}

  ~TicketState();
  TicketState(const TicketState&) = delete;
  TicketState& operator=(const TicketState&) = delete;

  /// Memory of a result whose size only the agreement fixes. Set before complete(), by the same
  /// thread.
  void set_output(std::shared_ptr<std::byte[]> data, TensorView view,
                  std::vector<std::int64_t> received_splits = {});

  /// Results on a CUDA device are there behind `done`. Before complete(), by the same thread.
  void add_device_result(std::shared_ptr<DeviceContext> context,
                         std::shared_ptr<const DeviceEvent> done);

  /// The outcome of some members: each is told of exactly once. The ticket's is the first error,
  /// else ok.
  void complete(Status status, std::size_t members = 1);

  /// See Ticket.
  void on_complete(std::function<void()> callback);

  bool is_ready() const noexcept { return is_ready_.load(std::memory_order_acquire); }
  /// As is_ready(), for a caller who may go on asking.
  bool look() const;

  /// Blocks until completion or the deadline, and drives the session meanwhile if no other thread
  /// does; nothing when the deadline came first.
  std::optional<Status> wait_until(Deadline deadline) const;

  /// Requires is_ready().
  TensorView output() const;
  /// Requires is_ready().
  std::vector<std::int64_t> received_splits() const;
  /// See Ticket. Both require is_ready().
  void make_wait(StreamHandle stream) const;
  void copy_output(void* destination, StreamHandle stream) const;

 private:
  void check_completed(const char* what) const;

  const std::shared_ptr<DriverSeat> seat_;
  std::atomic<bool> is_ready_;
  mutable std::mutex mutex_;
  std::size_t members_left_;
  mutable std::condition_variable completed_;
  Status status_;
  std::vector<std::function<void()>> callbacks_;  ///< to be called; empty once it is ready
  std::shared_ptr<std::byte[]> output_data_;
  TensorView output_;
  std::vector<std::int64_t> received_splits_;
  std::shared_ptr<DeviceContext> device_;
  std::vector<std::shared_ptr<const DeviceEvent>> device_results_;
};

}  // namespace scalecom
