#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/wait.hpp"
#include "collective/adasum.hpp"
#include "collective/collectives.hpp"
#include "compress/residual_store.hpp"
#include "runtime/device/device_execution.hpp"
#include "runtime/fusion.hpp"
#include "runtime/health_monitor.hpp"
#include "runtime/part_exchange.hpp"
#include "runtime/residual_delivery.hpp"
#include "runtime/tensor_queue.hpp"
#include "runtime/timeline/timeline.hpp"
#include "runtime/worker_pool.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// Told when tensors have their results. They are not looked at any more afterwards.
using TensorsDone = std::function<void(std::span<PendingTensor* const> tensors)>;

/// Carries out batches. Owns this rank's residuals. Confined to the coordinator's thread.
class Execution {
 public:
  /// Batches under way at once: one is packed while the one before is on its way.
  static constexpr std::size_t kBatchesMax = 2;

  /// `collectives` and `timeline` outlive this object.
  Execution(Collectives& collectives, int rank, int size, const Config& config, Timeline& timeline,
            TensorsDone done, DeviceNeeds devices);

  /// Begins a batch of the agreement, for which can_start(); `tensors[i]` is the submission behind
  /// agreement.tensors[batch.tensors[i]] (of a void agreement it may be null). An all-reduce goes
  /// on in progress(); any other batch is over on return. Throws Error when the world fails,
  /// like progress().
  void start(Batch batch, std::shared_ptr<const Agreement> agreement,
             std::vector<PendingTensor*> tensors, const WaitContext& context);

  /// Carries on what is under way until `is_enough`, which must come true when nothing is.
  void progress(const std::function<bool()>& is_enough);

  /// Whether start() returns at once, with fewer than kBatchesMax under way; else it waits for
  /// other ranks, and none may be under way for it.
  bool goes_in_steps(const Batch& batch) const noexcept;
  /// Whether progress() with such a batch under way may wait for other ranks: the host's
  /// collectives behind a CUDA tensor's broadcast or exchange do.
  static bool may_wait_inside(const Batch& batch) noexcept;
  bool may_wait_inside() const noexcept;
  bool can_start(const Batch& batch) const noexcept;
  /// Both require collectives that go in steps. From now until revoke() no result reaches a tensor
  /// (see negotiation.hpp, Hold).
  void hold() { collectives_.hold(); }
  /// Agreements of [first_void, end) are void, those under way and those still to be started: their
  /// communication is carried out, results are thrown away and nobody is told (see Revocation).
  void revoke(std::uint64_t first_void, std::uint64_t end);

  std::size_t under_way() const noexcept { return under_way_.size(); }

  /// Agreements with a batch under way, but for `other`.
  std::size_t agreements_under_way(const Agreement* other) const noexcept;

  ResidualStore& residuals() noexcept { return residuals_; }
  HealthMonitor& health() noexcept { return health_; }
  /// Gives HealthMonitor what has come of devices since.
  void read_device_health();
  DeviceExecution& devices() noexcept { return on_devices_; }

  std::int64_t batches_executed() const noexcept { return batches_executed_; }
  std::int64_t compressed_tensors() const noexcept { return compressed_tensors_; }
  std::int64_t nonfinite_tensors() const noexcept { return nonfinite_tensors_; }

 private:
  struct BatchUnderWay {
    Batch batch;
    std::shared_ptr<const Agreement> agreement;
    std::vector<PendingTensor*> tensors;
    WaitContext context;
    std::size_t done = 0;  ///< tensors
    bool is_void = false;
    std::uint64_t operation = 0;        ///< dense_all_reduce
    SparseAllReduce* sparse = nullptr;  ///< sparse_all_reduce
    bool is_on_device = false;          ///< then none of these
    HealthSample sample = {};           ///< of those tensors whose turn it is
    std::vector<const AgreedTensor*> sampled = {};
    /// What dense tensors send in place of their input to deliver their residuals, by place.
    std::map<std::size_t, Delivery> with_residuals = {};
    std::unique_ptr<BatchTimes> times = nullptr;  ///< for a timeline; null: none ran at its start

    /// Of tensors[i].
    const AgreedTensor& agreed(std::size_t i) const { return agreement->tensors[batch.tensors[i]]; }
  };

  bool is_void(const Agreement& agreement) const noexcept {
    return agreement.sequence >= first_void_ && agreement.sequence < end_of_void_;
  }
  void run(const BatchUnderWay& work);
  void start_dense(BatchUnderWay& work);
  void start_sparse(BatchUnderWay& work);
  void start_on_device(BatchUnderWay& work);
  bool advance_on_device(BatchUnderWay& work);
  void give_turn_behind(const BatchUnderWay& work);
  const std::byte* take_residual_along(BatchUnderWay& work, std::size_t place);
  void settle_residuals(BatchUnderWay& work, std::size_t count);
  void complete(BatchUnderWay& work, std::size_t count);
  void begin_times(BatchUnderWay& work) const;
  void tell_times(const BatchUnderWay& work, std::size_t count);
  bool advance();
  bool is_done(const BatchUnderWay& work) const;
  void drop_done();
  void finish_sparse(BatchUnderWay& work);
  std::span<std::byte> sample_health(BatchUnderWay& work) const;
  [[noreturn]] void fail(const BatchUnderWay& work, const Error& error) const;
  SparseAllReduce* idle_sparse() const;
  void broadcast(int root, std::span<PendingTensor* const> tensors, const WaitContext& context);
  void adasum(const BatchUnderWay& work);
  void keep_steps(const BatchUnderWay& work);
  void report_nonfinite(const SparseSlot& slot);

  Collectives& collectives_;
  const int size_;
  const int rank_;
  Timeline& timeline_;
  const TensorsDone done_;
  /// Oldest first.
  std::deque<BatchUnderWay> under_way_;
  /// Of the oldest batch under way. The wait is one, whoever carries it on.
  WaitContext context_{Deadline::after(Clock::duration::zero()), nullptr};
  WaitLoop wait_{context_};
  WorkerPool workers_;
  /// A batch under way has one; they take turns.
  std::vector<std::unique_ptr<SparseAllReduce>> sparse_;
  PartExchange parts_;
  Adasum adasum_;
  ResidualStore residuals_;
  HealthMonitor health_;
  DeviceExecution on_devices_;
  /// Whose work has thrown; null: the collectives have, and the oldest batch's error it is.
  const BatchUnderWay* failing_ = nullptr;
  std::uint64_t first_void_ = 0;
  std::uint64_t end_of_void_ = 0;
  std::int64_t batches_executed_ = 0;
  std::int64_t compressed_tensors_ = 0;
  std::int64_t nonfinite_tensors_ = 0;
};

}  // namespace scalecom
