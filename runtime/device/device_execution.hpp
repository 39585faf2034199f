#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "collective/device/device_all_reduce.hpp"
#include "compress/residual_store.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/device/device_costs.hpp"
#include "runtime/device/device_residual.hpp"
#include "runtime/device/device_samples.hpp"
#include "runtime/fusion.hpp"
#include "runtime/tensor_queue.hpp"
#include "scalecom/config.hpp"
#include "sparse/device_sparse_layout.hpp"

namespace scalecom {

/// Called by all ranks at once, with nothing under way between them.
using MakeDeviceCollectives =
    std::function<std::unique_ptr<DeviceCollectives>(Accelerator&, const WaitContext&)>;

/// What tensors on a CUDA device need; both empty where there will be none.
struct DeviceNeeds {
  SessionDevice* session = nullptr;  ///< outlives the execution
  MakeDeviceCollectives make_collectives;
  MeasuredSizes measured = {};
};

/// Enqueues batches of tensors on this rank's accelerator. A batch is over for the host when all of
/// it is enqueued; on the device it goes on, in the order of streams. A batch takes a lane that is
/// free there, so that its passes overlap the transfers of those before; the host runs ahead of the
/// device by kLanesMax batches, or fewer where their fusion buffers do not fit there at once. While
/// one waits until a collective is posted, the passes before the first collective of the next are
/// enqueued. Confined to the coordinator's thread.
class DeviceExecution {
 public:
  static constexpr std::size_t kLanesMax = 8;
  /// Batches that are being enqueued at once: one that starts its collectives, and of the next one,
  /// once its tensors are there, the passes before its first. These wait for no other rank, so that
  /// they end whatever happens; with more of them a collective, when its call is made at last,
  /// would find the device's processors taken for longer, while other ranks' wait for it on theirs.
  static constexpr std::size_t kWorksMax = 2;

  /// `residuals` and `health` outlive it.
  DeviceExecution(int rank, int size, const Config& config, ResidualStore& residuals,
                  HealthMonitor& health, DeviceNeeds needs);
  ~DeviceExecution();

  /// Before the first batch: all ranks choose their collectives together.
  bool is_connected() const noexcept { return collectives_ != nullptr; }
  /// On the device of this number. What ends the wait ends those of residuals, later on.
  void connect(int index, const WaitContext& wait);
  /// Once connected, by all ranks with nothing under way, there or in `host`: measures what the
  /// device takes and tells the session.
  void measure(Collectives& host, const WaitContext& wait);

  /// Whether a batch may be taken up: none is there, or one that waits for a collective.
  bool can_start() const noexcept {
    return works_.empty() || (works_.size() < kWorksMax && works_.back().operation != nullptr);
  }
  /// Takes up a batch, with can_start(); `batch`, agreement and tensors stay until it is done.
  void start(const Batch& batch, const Agreement& agreement,
             std::span<PendingTensor* const> tensors);
  /// Enqueues what can be enqueued of a batch that is not done; false: nothing could. When
  /// is_done(batch) comes true, in the order of their start, the tickets may be completed: each
  /// knows the event behind its results. What goes wrong in the second one is thrown when it is the
  /// first.
  bool advance(const Batch& batch, const WaitContext& wait);
  bool is_done(const Batch& batch) const;
  /// All are.
  bool is_done() const noexcept { return works_.empty(); }

  /// SCALECOM_COLLECTIVE_TIMEOUT: for a batch's enqueueing as the first, and then on the device.
  Clock::duration limit() const noexcept { return limit_; }
  /// Throws what has gone wrong on the device since, or if a batch takes longer than limit() there.
  void check();
  /// Whether something goes on there that check() should look at.
  bool is_busy();

  DeviceSamples& samples() noexcept { return samples_; }
  /// DeviceSamples::read().
  std::vector<CompressionHealth> read_samples();

  /// The orderly end, by all ranks once is_done(): returns when all is done on the device.
  void close(const WaitContext& wait);
  /// Gives everything up, after a failure.
  void abort() noexcept;

  /// Zero before connect().
  TransportCounters counters() const;

  /// Batches so far, and how long any was between its start() and is_done().
  struct Enqueued {
    std::int64_t batches = 0;
    Clock::duration time{};
  };
  const Enqueued& enqueued() const noexcept { return enqueued_; }

 private:
  struct Lane {
    std::unique_ptr<DeviceLane> lane;
    std::unique_ptr<DeviceSparseLayouts> layouts;
    TimePoint finished{};
    /// Behind its last batch; null: that is known to be done.
    std::shared_ptr<const DeviceEvent> done;
  };
  struct Work {
    const Batch& batch;
    const Agreement& agreement;
    std::span<PendingTensor* const> tensors;
    TimePoint started;
    std::unique_ptr<DeviceOperation> operation = nullptr;
    /// Of a step whose passes are enqueued; empty: there is none to be started.
    DeviceOperation::Collective collective = {};
    Lane* lane = nullptr;
    /// Whether they were there at the last look; absent: it is time for one.
    std::optional<bool> has_inputs = {};
    bool is_short_of_memory = false;  ///< waits for what other lanes give back
    /// The residuals that it uses.
    std::vector<std::shared_ptr<DeviceResidual>> used = {};
    DeviceHealthSample* sample = nullptr;
    /// Of its begin, while another batch was the first.
    std::optional<Error> failure = {};
  };

  bool is_free(Lane& lane) const;
  Lane* find_lane();
  std::size_t packed_bytes() const;
  bool find_room();
  bool give_back_others();
  bool begin();
  bool begin_early();
  void finish();
  void end_at(const std::shared_ptr<const DeviceEvent>& end);
  std::unique_ptr<DeviceOperation> make_operation();
  std::unique_ptr<DeviceOperation> make_dense();
  std::unique_ptr<DeviceOperation> make_sparse();
  using Inputs = std::map<StreamHandle, const DeviceEvent*>;
  Inputs inputs() const;
  bool has_inputs() const;
  DeviceResidual& bring(const std::string& name, ResidualStore::Entry& entry) const;
  float* residual_of(const std::string& name, ResidualStore::Entry& entry);
  float* owed_by(const PendingTensor& tensor);
  const TensorSignature& signature(std::size_t place) const;
  DeviceLane& lane() const { return *work_->lane->lane; }

  const int rank_;
  const int size_;
  const Clock::duration limit_;
  ResidualStore& residuals_;
  const DeviceNeeds needs_;
  Interrupt* interrupt_ = nullptr;  ///< of waits for the device
  std::shared_ptr<DeviceContext> context_;
  StreamOwner wire_;
  std::unique_ptr<DeviceCollectives> collectives_;
  /// As many as are needed at once; they stay where they are.
  std::deque<Lane> lanes_;
  /// The first starts its collectives, and those behind it theirs when all of it is enqueued: in
  /// the same order on all ranks.
  std::deque<Work> works_;
  Work* work_ = nullptr;  ///< the one that is seen to
  Enqueued enqueued_;
  bool has_told_of_shortage_ = false;
  std::vector<SparseSlot> slots_;  ///< of the work, while its operation is made
  DeviceSamples samples_;
};

}  // namespace scalecom
