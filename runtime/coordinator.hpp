#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "collective/collectives.hpp"
#include "runtime/control/control_channel.hpp"
#include "runtime/control/last_meeting.hpp"
#include "runtime/driver_seat.hpp"
#include "runtime/execution.hpp"
#include "runtime/fusion_tuning.hpp"
#include "runtime/negotiation.hpp"
#include "runtime/tensor_queue.hpp"
#include "runtime/timeline/timeline.hpp"
#include "scalecom/config.hpp"
#include "scalecom/session.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// The session's counters: written by the coordinator's thread, read by any.
struct SharedStats {
  std::atomic<std::int64_t> data_bytes_sent{0};
  std::atomic<std::int64_t> data_messages_sent{0};
  std::atomic<std::int64_t> control_bytes_sent{0};
  std::atomic<std::int64_t> control_messages_sent{0};
  std::atomic<std::int64_t> tensors_completed{0};
  std::atomic<std::int64_t> batches_executed{0};
  std::atomic<std::int64_t> tensors_negotiated_from_cache{0};
  std::atomic<std::int64_t> compressed_tensors{0};
  std::atomic<std::int64_t> nonfinite_tensors{0};
  std::atomic<std::int64_t> residual_resets{0};
  std::atomic<std::int64_t> steady_agreements{0};
  std::atomic<std::int64_t> steady_leaves{0};
  std::atomic<std::int64_t> guard_halvings{0};
  std::atomic<std::int64_t> device_batches{0};
  std::atomic<std::int64_t> device_enqueue_us{0};

  SessionStats snapshot() const;
};

/// What automatic is for a CUDA tensor, alike on all ranks; null as long as nobody has measured the
/// devices.
using ChooseMode = std::function<std::optional<CompressionMode>(std::int64_t count, DataType dtype,
                                                                const Compression& compression)>;

/// A session's work: drains the queue, negotiates, plans, executes, completes. While batches are
/// under way it goes on with all of that, so that the next one is agreed on and packed by the time
/// they are over.
///
/// Confined to the thread in the driver's seat: the session's own background thread in run(), or
/// one that waits for a ticket in drive(). Either waits in one place, a poll on the queue's
/// descriptor, the control channel's and the negotiation's next timer. While a collective waits for
/// data, check() (the collective's Interrupt) keeps the queue and the control plane going. After
/// the session's end run() returns and every ticket is complete.
class Coordinator final : private Interrupt, private Drivable {
 public:
  struct Parts {
    int rank = 0;
    int size = 1;
    /// What stands before messages: whose they are, where a process has several sessions.
    std::string scope = {};
    Config config;
    Transport* transport = nullptr;
    Collectives* collectives = nullptr;
    ControlChannel* channel = nullptr;
    TensorQueue* queue = nullptr;
    SharedStats* stats = nullptr;
    DeviceNeeds devices = {};
    ChooseMode choose_mode = {};
  };
  explicit Coordinator(Parts parts);

  /// The session thread's part. Returns when the session has ended, with the channel open. Call
  /// once.
  void run();

  /// Taken by threads that wait for a ticket; outlives the coordinator, closed.
  const std::shared_ptr<DriverSeat>& seat() const noexcept { return seat_; }

  /// The rest: from the thread in the seat (as a CoordinatorTask), or when run() has returned.

  /// Ends the session on every rank with `status` as cause; on this one when nothing has moved for
  /// kShutdownTime, also while a batch is in execution and when the others do not answer.
  void end_session(Status status);
  /// Whether the session was shut down, and all ranks agreed on that and on what came before. Valid
  /// when run() has returned.
  bool has_ended_in_order() const noexcept { return has_ended_in_order_; }
  /// Then, on all ranks or on none: waits until they have carried it out, too. Throws
  /// Error(rank_lost) or Error(timed_out), or what the interrupt does.
  void meet_at_end(const WaitContext& wait) { last_meeting_.meet(*parts_.channel, wait); }
  ResidualStore& residuals() noexcept { return execution_.residuals(); }
  std::vector<CompressionHealth> health() {
    execution_.read_device_health();
    return execution_.health().health();
  }
  /// See FusionTuning::describe().
  Config describe_config() const { return fusion_tuning_.describe(parts_.config); }
  void restore_residual(Residual residual);
  /// Also before run().
  void start_timeline(std::unique_ptr<TimelineWriter> writer, bool has_cycles);
  std::unique_ptr<TimelineWriter> stop_timeline();

 private:
  using PendingTensors = std::unordered_map<std::string, PendingTensor>;

  void check() override;
  void drive(const std::function<bool()>& is_enough, Deadline deadline) override;
  bool needs_session_thread() const override;
  void wake_session_thread() override { parts_.queue->wake_sleepers(); }
  bool has_news() const noexcept override { return parts_.queue->has_items(); }

  bool work(const std::function<bool()>& is_enough);
  bool carry_on(const std::function<bool()>& is_enough);
  bool poll_once();
  TimePoint next_timer() const;
  bool was_active_just_now() const { return Clock::now() - last_activity_ < kPollTime; }
  void sleep_for_news(TimePoint until, const std::function<bool()>& is_called) const;
  std::size_t agreements_waiting() const;
  void run_tasks();
  const SessionEnd* find_failure() const;
  void take_submits();
  void take_control_messages();
  void flush_negotiation();
  void tell_times(const NegotiationEvent& event);
  void tell_unfinished();
  void carry_out(NegotiationEvent event);
  void plan(Agreement agreement);
  bool settle_modes(Agreement& agreement);
  bool can_carry_out(const NegotiationEvent& event);
  bool lacks_figures(const Agreement& agreement);
  void start_batch();
  void put_pending(PendingTensor&& tensor);
  std::vector<PendingTensor*> find_tensors(const Batch& batch, const Agreement& agreement);
  void complete(std::span<PendingTensor* const> tensors);
  DeviceKind zeros_on() const;
  PendingTensor* make_substitute(const AgreedTensor& agreed);
  void end_join(const Joined& joined);
  void fail_one(const Mismatch& mismatch);
  void learn_first_cause(const Error& error);
  void bound_end(const SessionEnd& end);
  void finish(const Status& cause);
  void publish_stats();
  void check_devices(TimePoint now);
  void look_at_devices_within(Clock::duration period);
  void end_devices(const Status& status);

  // After work a thread keeps looking this long, giving the core away in between, before it
  // sleeps: blocking calls in a hot loop then need no wake-up (4 to 30 us each). An idle session
  // never polls.
  static constexpr auto kPollTime = std::chrono::microseconds(50);
  static constexpr std::size_t kSpareNodesMax = 1024;
  // How long a rank waits for others once the session is to end: for their consent, and for data of
  // what was agreed on before, as long as none moves.
  static constexpr auto kShutdownTime = std::chrono::seconds(5);
  // How often a device that has something of this session is looked at.
  static constexpr auto kDevicePeriod = std::chrono::milliseconds(20);

  Parts parts_;
  const std::shared_ptr<DriverSeat> seat_;
  Negotiation negotiation_;
  LastMeeting last_meeting_;
  FusionTuning fusion_tuning_;
  Timeline timeline_;
  Execution execution_;
  PendingTensors pending_;
  /// Of completed tensors, without them: a training's next step has as many.
  std::vector<PendingTensors::node_type> spare_nodes_;
  /// Zeros for what others submit while this rank has joined, in execution.
  std::unordered_map<const PendingTensor*, std::unique_ptr<PendingTensor>> substitutes_;
  std::unordered_map<std::string, std::int64_t> first_steps_;
  std::deque<NegotiationEvent> events_;
  // Run between batches only: a task may touch the residuals.
  std::deque<CoordinatorTask> tasks_;
  std::optional<SessionEnd> requested_end_;
  Deadline requested_end_at_{TimePoint::max()};
  std::int64_t messages_at_end_ = 0;
  bool has_ended_in_order_ = false;
  /// Batches of one agreement that have not been started.
  std::deque<Batch> batches_;
  std::shared_ptr<const Agreement> agreement_;
  TimePoint last_activity_{};
  /// While a CUDA device has something of this session: when to look at it again.
  TimePoint device_timer_ = TimePoint::max();
  /// The first of events_ is an agreement that lacks_figures().
  bool awaits_figures_ = false;
  /// When the session's thread wakes by itself.
  TimePoint session_thread_timer_{};
  std::atomic<bool> has_ended_{false};
};

}  // namespace scalecom
