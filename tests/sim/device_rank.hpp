#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/device/device_execution.hpp"
#include "tests/sim/device_plan.hpp"
#include "tests/sim/meeting_collectives.hpp"
#include "tests/sim/meeting_host.hpp"
#include "tests/sim/simulated_nccl.hpp"
#include "tests/sim/stepped_call.hpp"
#include "tests/support/fake_accelerator.hpp"

namespace scalecom::sim {

/// A rank of a simulation, in pieces that a scheduler calls one by one: an application that submits
/// what a plan says and reads the results, what a coordinator does for its DeviceExecution, and a
/// fake accelerator. What is wrong goes to `violations`.
class DeviceRank {
 public:
  /// All outlive it. `meetings` or, over NCCL, `job` is where its operations meet the others'.
  DeviceRank(const DevicePlan& plan, int rank, Meetings& meetings, SimulatedJob& job,
             std::vector<std::string>& violations);
  DeviceRank(const DeviceRank&) = delete;
  DeviceRank& operator=(const DeviceRank&) = delete;

  /// The application's next call; false: not before it has read others.
  bool submit();
  /// Enqueues what reads the results of the oldest call that has not been read.
  bool read();
  /// Starts the next batch of the first `agreed` calls where it can, and advances what is under
  /// way.
  bool coordinate(std::size_t agreed);
  /// Over NCCL: the thread makes the call that it has.
  bool post() { return nccl_ && nccl_->post(); }
  /// Runs some of what is enqueued on the accelerator.
  void move() { accelerator_->advance(); }
  /// What a coordinator does from time to time.
  void look();
  /// What is the plan's fault begins on this rank.
  void fail();
  /// A rank is lost: gives up, fails what was submitted, and the application ends.
  void abort();

  std::size_t submitted() const noexcept { return submitted_; }
  std::size_t begun() const noexcept { return begun_; }
  bool has_aborted() const noexcept { return has_aborted_; }
  /// The application has read everything, or has ended, on the device too; and no lane is busy.
  bool is_over();

  /// When all ranks are over: compares residuals, and gives everything back.
  void end();

  /// The health of its tensors, as far as every rank has computed it from the same bits.
  std::string figures() const;
  /// What its device takes, as its session was told; empty: it was not measured.
  std::string costs() const;

  struct Counts {
    int batches = 0;
    int refused = 0;         ///< allocations
    int aborted_within = 0;  ///< batches that abort() has found half-way
    int aborted_calls = 0;   ///< of NCCL, in the thread's hands then
    int overlaps = 0;        ///< batches that began while a call was in the thread's hands
    int aborted_measuring = 0;
    int samples = 0;
    int measured = 0;  ///< devices whose costs are known
    std::size_t results = 0;
  };
  Counts counts() const;
  /// What the rank has done to its accelerator so far.
  std::string calls() const;

 private:
  struct Memory {
    AcceleratorMemory input;
    AcceleratorMemory output;  ///< what a result of the ticket's is copied to
    std::byte* result = nullptr;
  };
  struct Call {
    std::vector<PendingTensor> tensors;
    /// By tensor; a group's have one. Empty: not submitted, or read.
    std::vector<std::shared_ptr<TicketState>> tickets;
    std::size_t left = 0;  ///< tensors that are not complete

    bool is_ready() const {
      return std::ranges::all_of(tickets, [](const auto& ticket) { return ticket->is_ready(); });
    }
  };
  struct BatchUnderWay {
    Batch batch;
    std::shared_ptr<const Agreement> agreement;
    std::size_t call;
    std::vector<PendingTensor*> tensors = {};
  };

  void make_memory();
  bool may_submit() const;
  const Memory& memory_of(std::size_t place, std::size_t step) const {
    return memory_[step % plan_.turns * plan_.tensors.size() + place];
  }
  StreamHandle stream_of(const PlannedTensor& tensor, std::size_t step) const {
    return streams_[(tensor.stream + step % plan_.turns) % streams_.size()].get();
  }
  void write(std::size_t place, std::size_t step);
  PendingTensor pending(const AgreedTensor& agreed, std::size_t place, std::size_t step) const;
  void mark_ready(PendingTensor& tensor, const PendingTensor* before);
  void check_result(std::size_t place, std::size_t step);
  void check_splits(const PlannedTensor& tensor, std::size_t step, const TicketState& ticket);
  bool is_device_lost() const { return has_failed_ && plan_.fault == DeviceFault::device_error; }
  bool is_expected(const Error& error) const;
  void enqueue(StreamHandle stream, const char* name, std::vector<test::MemoryUse> uses,
               std::function<void()> body);
  std::unique_ptr<DeviceCollectives> make_collectives(Meetings& meetings);
  bool has_skipped() const;
  void plan_call();
  bool measure();
  void end_measuring();
  bool start(std::size_t agreed);
  bool advance();
  void complete(BatchUnderWay& work);
  void end_application();
  void give_back();
  void check_residuals();
  void violate(const std::string& what);

  const DevicePlan& plan_;
  const int rank_;
  std::vector<std::string>& violations_;
  test::FakeAccelerator* accelerator_ = nullptr;  ///< the context's
  std::size_t blocks_at_start_ = 0;
  // Of what is enqueued, to its end: one of them.
  std::optional<SimulatedNccl> nccl_;
  std::shared_ptr<MeetingCollectives::State> collective_state_;
  SessionDevice device_;
  std::optional<ResidualStore> residuals_;
  HealthMonitor health_;
  MeetingCollectives* collectives_ = nullptr;  ///< the execution's, unless it is over NCCL
  std::optional<DeviceExecution> execution_;
  // The application.
  std::array<StreamOwner, 2> streams_;
  std::vector<Memory> memory_;  ///< by turn and tensor
  std::vector<Call> calls_;
  std::size_t submitted_ = 0;
  std::size_t read_ = 0;     ///< calls whose reading is enqueued
  std::size_t results_ = 0;  ///< tensors that were compared
  std::size_t ended_streams_ = 0;
  // The coordinator.
  std::size_t begun_ = 0;  ///< calls
  std::shared_ptr<const Agreement> agreement_;
  std::deque<Batch> batches_;  ///< of the agreement, not started
  std::deque<BatchUnderWay> under_way_;
  std::vector<std::size_t> completed_;  ///< calls, in the order of their tickets
  MeetingHost host_;
  std::unique_ptr<SteppedCall> measuring_;
  bool has_aborted_ = false;
  bool has_failed_ = false;
  Counts counts_;
};

}  // namespace scalecom::sim
