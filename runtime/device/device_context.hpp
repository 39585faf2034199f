#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/pinned_pool.hpp"
#include "runtime/device/device_costs.hpp"

namespace scalecom {

/// A place in a stream, recorded. Goes back to its pool with the last copy of it.
struct DeviceEvent {
  EventOwner event;
  StreamHandle stream = nullptr;
  std::uint64_t number = 0;  ///< later ones of a stream have higher numbers
};

/// Accelerator::enter(), for who gives things back: a device that has failed is not entered, and
/// the log says why.
std::shared_ptr<void> enter_to_give_back(Accelerator& accelerator) noexcept;

/// A session's accelerator with what application threads and the coordinator share of it: events,
/// and the memory of results that tickets own. Any thread. Lives as long as a ticket needs it.
class DeviceContext : public std::enable_shared_from_this<DeviceContext> {
 public:
  explicit DeviceContext(std::unique_ptr<Accelerator> accelerator);
  ~DeviceContext();

  Accelerator& accelerator() const noexcept { return *accelerator_; }
  PinnedPool& pinned() const noexcept { return *pinned_; }

  std::shared_ptr<const DeviceEvent> record(StreamHandle stream);

  /// Memory for a result; what is enqueued on `stream` from now on may use it. It is given back
  /// behind the copies that copy() has enqueued by then, and what keep_until() was given.
  std::shared_ptr<std::byte[]> allocate_result(std::size_t bytes, StreamHandle stream);
  void keep_until(const DeviceEvent& event);
  struct Zeros {
    std::shared_ptr<std::byte[]> memory;       ///< given back as a result's
    std::shared_ptr<const DeviceEvent> ready;  ///< behind it they are there
  };
  Zeros allocate_zeros(std::size_t bytes);
  /// In the order of `stream`, from a result.
  void copy(void* destination, const std::byte* result, std::size_t bytes, StreamHandle stream);

  /// In the order of `stream`: one tensor of the accelerator's memory.
  void scale_copy(const CopyTensor& tensor, StreamHandle stream);

 private:
  struct Table {
    std::unique_ptr<CopyTable> table;
    EventOwner used;  ///< behind its last use
  };

  void give_back(DeviceEvent* event);
  Table& idle_table(StreamHandle stream);

  const std::unique_ptr<Accelerator> accelerator_;
  /// In whose order results are allocated and given back.
  StreamOwner results_;
  std::unique_ptr<PinnedPool> pinned_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<DeviceEvent>> idle_;
  std::uint64_t recorded_ = 0;
  /// Of one tensor each; kept, as their end is in the order of results_ and their use is not.
  std::vector<Table> tables_;
};

/// Where a session's accelerator comes from: tests give theirs.
using MakeAccelerator = std::function<std::unique_ptr<Accelerator>(int index)>;

/// The accelerator of a session: the one that its first CUDA tensor is on. Any thread.
class SessionDevice {
 public:
  explicit SessionDevice(MakeAccelerator make) : make_(std::move(make)) {}

  /// Throws Error: invalid_argument for another index than the first one, unavailable as
  /// make_cuda_accelerator() does.
  std::shared_ptr<DeviceContext> acquire(int index);
  /// What acquire() has returned first; null before.
  std::shared_ptr<DeviceContext> context() const;

  /// What it takes for its work, once that is measured: null before.
  std::shared_ptr<const DeviceCosts> costs() const;
  void set_costs(const DeviceCosts& costs);

 private:
  const MakeAccelerator make_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<DeviceContext> context_;
  std::shared_ptr<const DeviceCosts> costs_;
};

}  // namespace scalecom
