#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/deadline.hpp"
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

  /// For what need not be in the order of a batch. Waits on it are those of the host only: whoever
  /// waits for what may take long gives it an event of another stream.
  StreamHandle copies() const noexcept { return copies_.get(); }

  /// From a thread that has entered the accelerator. What is enqueued on `stream` from now on may
  /// use it. Its end is no part of that stream: it comes behind what keep_until() was given by
  /// then.
  AcceleratorMemory allocate(std::size_t bytes, StreamHandle stream);
  /// Memory for a result, as allocate(); its end comes behind what copy() has enqueued by then,
  /// too.
  std::shared_ptr<std::byte[]> allocate_result(std::size_t bytes, StreamHandle stream);
  /// Pinned memory, whatever it holds, from such a thread too. Its end comes as allocate()'s does.
  AcceleratorMemory allocate_pinned(std::size_t bytes);
  void keep_until(const DeviceEvent& event);
  struct Zeros {
    std::shared_ptr<std::byte[]> memory;       ///< given back as a result's
    std::shared_ptr<const DeviceEvent> ready;  ///< behind it they are there
  };
  Zeros allocate_zeros(std::size_t bytes);
  /// In the order of `stream`, from a result.
  void copy(void* destination, const std::byte* result, std::size_t bytes, StreamHandle stream);

  /// Called again and again, by one thread at a time, to give the device what has not been used for
  /// a while: calls Accelerator::limit_kept() once in kKeptTime, and returns when it is time again.
  TimePoint limit_kept(TimePoint now);
  static constexpr std::chrono::seconds kKeptTime{10};

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
  StreamOwner copies_;
  /// In whose order memory is given back. Nothing waits for it: it waits for what users do with
  /// results, as long as that takes.
  StreamOwner ends_;
  std::unique_ptr<PinnedPool> pinned_;
  TimePoint next_limit_{};  ///< of limit_kept()'s threads
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<DeviceEvent>> idle_;
  std::uint64_t recorded_ = 0;
  /// Of one tensor each; kept, as their end is in the order of copies_ and their use is not.
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
