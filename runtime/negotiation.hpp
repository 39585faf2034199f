#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/deadline.hpp"
#include "runtime/control/control_channel.hpp"
#include "scalecom/compression.hpp"
#include "scalecom/device.hpp"
#include "scalecom/status.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// Agreements that a rank has ahead of its execution: the one that runs, and the next.
inline constexpr std::size_t kBacklogMax = 2;

/// In place of a cycle time in ms: see Config::cycle_time_ms.
inline constexpr double kAdaptiveCycleTime = -1.0;

/// What a fusion threshold and a cycle time may be at most.
inline constexpr std::int64_t kFusionThresholdBytesMax = std::int64_t{1} << 40;
inline constexpr double kCycleTimeMaxMs = 10'000.0;

/// The values travel in the negotiation.
enum class OperationKind : std::uint8_t {
  all_reduce = 0,
  all_gather = 1,
  broadcast = 2,
  barrier = 3,
  reduce_scatter = 4,
  all_to_all = 5,
  join = 6  ///< never a tensor's: what Session::join() puts into the queue
};

const char* to_string(OperationKind kind) noexcept;

/// First extents that each rank chooses by itself and tells all others: of its tensor for an
/// all_gather (1), of the part for each rank for an all_to_all (the world size). Else none.
std::size_t first_extents_of_rank(OperationKind kind, int size) noexcept;

/// Everything about a tensor that the ranks must agree on: all but the first extent, where each
/// rank chooses its own.
struct TensorSignature {
  OperationKind kind = OperationKind::all_reduce;
  DataType dtype = DataType::float32;
  ReduceOp op = ReduceOp::sum;
  DeviceKind device = DeviceKind::host;
  std::int32_t root = 0;  ///< broadcast only, else 0
  double prescale = 1.0;
  double postscale = 1.0;
  Compression compression;
  /// Step at which this session's count of the tensor starts: 0, or what a restored residual says.
  std::int64_t first_step = 0;
  std::int32_t priority = 0;  ///< all_reduce only, else 0; see AllReduceOptions
  Shape shape;

  bool operator==(const TensorSignature&) const = default;
};

inline bool is_compressed(const TensorSignature& signature) noexcept {
  return signature.compression.mode != CompressionMode::none;
}

/// Whether the tensor's call number `step` sends selected values only: a compressed one does after
/// its warm-up.
inline bool is_sparse(const TensorSignature& signature, std::int64_t step) noexcept {
  return is_compressed(signature) && step >= signature.compression.warmup_steps;
}

/// Elements in a chunk at call number `step`, which is_sparse(): Compression's rate, or a milder
/// one in its ramp. In integers, so that all ranks find the same.
inline std::int64_t rate_at(const Compression& compression, std::int64_t step) noexcept {
  constexpr std::int64_t kMildestRate = 4;
  const std::int64_t ramped = step - compression.warmup_steps;
  if (ramped >= compression.ramp_steps || compression.rate < kMildestRate) return compression.rate;
  const auto spare = static_cast<std::uint64_t>(compression.rate / kMildestRate);
  const auto halvings = static_cast<std::int64_t>(std::bit_width(spare)) - 1;
  return compression.rate >> (halvings - ramped * halvings / compression.ramp_steps);
}

/// What a rank tells the others about a submitted tensor: no data.
struct TensorRequest {
  std::string name;
  TensorSignature signature;
  /// all_to_all: the rows of the first dimension for each rank, in rank order; their sum is its
  /// extent. Empty otherwise.
  std::vector<std::int64_t> splits = {};
};

/// A tensor that every rank has submitted with one signature.
struct AgreedTensor {
  std::string name;
  TensorSignature signature;  ///< this rank's, with its own first extent
  /// Calls of this tensor before this one, counted by rank 0 from signature.first_step; leader and
  /// warm-up follow from it. Counted for compressed tensors; 0 for others.
  std::int64_t step = 0;
  /// What first_extents_of_rank() says, rank after rank: of each rank's tensor for an all_gather,
  /// each rank's splits for an all_to_all. Empty otherwise.
  std::vector<std::int64_t> first_extents;
  /// This rank has joined and has not submitted it: it takes part with zeros, and where ranks
  /// choose their first extent with no rows.
  bool is_substitute = false;
};

/// Tensors to execute now, in this order, on every rank: by priority, equal ones as they became
/// ready.
struct Agreement {
  std::uint64_t sequence = 0;  ///< 1, 2, 3... the same on every rank
  std::vector<AgreedTensor> tensors;
  /// Others have begun it and this rank has not: it takes part in the communication without data of
  /// its own, and throws the results away. It may not have submitted these tensors; those that it
  /// has stay in flight. Only right after a Revocation whose range it is in.
  bool is_void = false;
};

/// Ranks disagree about one tensor: its ticket fails, on every rank; the session goes on.
struct Mismatch {
  std::string name;
  std::string message;  ///< names the tensor, the ranks and the values
};

/// Some ranks submitted a tensor and others did not, for the stall check time.
struct Stall {
  std::string message;  ///< which ranks have not submitted what, for how long
};

/// The steady state ends. From when this is taken, not from its place among the events, until the
/// Revocation (or the session's end) no agreement is completed that was not completed before: its
/// communication may go on, but no result reaches a caller, and nothing is written to a tensor or a
/// residual that could not be taken back.
struct Hold {
  std::string message;  ///< for the log: which rank left the steady state, and why
};

/// Ends a Hold, from when it is taken. Agreements before `first_void_sequence` complete as usual.
/// Those of [first_void_sequence, end_sequence) were begun by some ranks only and are void: a rank
/// that has taken one in carries out its communication, to the end or from the beginning, with any
/// data, and throws the results away; its tensors stay in flight, as if it had never been agreed
/// on, and are agreed on again. Those of the range that this rank has not taken yet follow at once,
/// as agreements with is_void.
struct Revocation {
  std::uint64_t first_void_sequence = 0;
  std::uint64_t end_sequence = 0;  ///< the next agreement's
};

/// Every rank has joined; whatever some had submitted before was agreed on before. Each may submit
/// again.
struct Joined {
  int last_rank = 0;  ///< the last to join, as rank 0 heard of them
};

/// How ready tensors are fused from here on: every agreement after it, on every rank.
struct FusionSettings {
  std::int64_t threshold_bytes = 0;
  double cycle_time_ms = kAdaptiveCycleTime;
  bool operator==(const FusionSettings&) const = default;
};

/// The session is over on every rank: the first cause, sticky.
struct SessionEnd {
  Status status;  ///< shut_down, rank_lost, timed_out (stall shutdown)
};

using NegotiationEvent =
    std::variant<Agreement, Mismatch, Stall, Hold, Revocation, Joined, FusionSettings, SessionEnd>;

/// For a neighbour in the control tree, rank `to`.
struct OutgoingMessage {
  int to = 0;
  ControlMessage message;
};

/// Who this rank is, and the settings of its session (scalecom/config.hpp).
struct NegotiationOptions {
  int rank = 0;
  int size = 1;
  std::int64_t cache_capacity = 16384;
  /// Rank 0 releases ready tensors of this many bytes at once, and at most so many as one agreement
  /// (a larger tensor is one by itself).
  std::int64_t fusion_threshold_bytes = 128LL << 20;
  double cycle_time_ms = kAdaptiveCycleTime;
  bool stall_check = true;
  double stall_check_time_s = 60.0;
  double stall_shutdown_time_s = 0.0;  ///< 0: never
  /// How long the execution of an agreement may take, waiting for other ranks included, before it
  /// fails: the steady state ends before that for the sake of a late rank.
  double collective_timeout_s = 600.0;
  /// After this many steps in a row with the same tensors the ranks repeat them without asking each
  /// other; 0: never. Rank 0's counts.
  int steady_steps = 3;
};

/// Is told of requests as they are heard of, for a timeline.
class ArrivalSink {
 public:
  virtual ~ArrivalSink() = default;
  /// The ranks [first_rank, end_rank) have submitted the tensor, as this node knows since `now`.
  virtual void arrive(const std::string& name, int first_rank, int end_rank, TimePoint now) = 0;
};

/// What the steady state has saved, and why it was left.
struct SteadyCounters {
  std::int64_t agreements = 0;  ///< that this rank took from a schedule, void ones included
  std::int64_t leaves = 0;      ///< schedules that were left; the same on every rank
  std::string last_reason;      ///< which rank left the last one, and why; empty: none
};

/// The agreement of all ranks on what to execute next: a pure state machine. It holds no socket, no
/// thread and no clock; the coordinator feeds it submits, messages, losses and the time, and
/// carries out what it says. The simulation in tests/sim does the same for hundreds of ranks.
///
/// Requests flow up the control tree, merged at each node; rank 0 orders what all ranks have
/// submitted, and agreements flow down. When several steps in a row were the same, rank 0 publishes
/// them as a schedule, which every rank then repeats by itself, without a message, until one
/// deviates. Protocol and proof: docs/architecture.md.
///
/// The schedule relies on the execution: no rank finishes an all-reduce that is scheduled before
/// every rank has begun it, and agreements are executed in order.
class Negotiation {
 public:
  explicit Negotiation(NegotiationOptions options);
  ~Negotiation();

  /// This rank has submitted a tensor. The name is not in flight here.
  void submit(TensorRequest request, TimePoint now);

  /// This rank is out of data: until Joined it submits nothing, and is taken to have submitted what
  /// all others that have not joined do (AgreedTensor::is_substitute). Not while it has joined.
  /// zeros_on: cuda where it can put zeros on a CUDA device too.
  void join(DeviceKind zeros_on, TimePoint now);

  /// A neighbour's message. A message that does not parse ends the session with
  /// Status(internal) naming the peer.
  void receive(int from, const ControlMessage& message, TimePoint now);

  /// A neighbour is gone.
  void lose_peer(int peer, const std::string& cause, TimePoint now);

  /// This rank wants to end the session for all, with `status` as cause.
  void end_session(Status status, TimePoint now);

  /// The next call of this tensor counts from its signature's first step again, also when that is
  /// the same as before: a checkpoint may be restored twice. Every rank says it (rank 0 counts),
  /// with no request of the name in flight here.
  void restart_steps(const std::string& name);

  /// Rank 0: all ranks are to fuse like this, from one place of the order on, which each rank's
  /// FusionSettings event marks: at once, or when the steady state, which it ends, is over. The
  /// last of several calls counts. Requires a threshold of 0 to 2^40 and a cycle time up to 10 s.
  void change_fusion(const FusionSettings& settings, TimePoint now);

  /// Agreements that this rank has taken and not finished, the running one included. While rank 0
  /// has kBacklogMax of them, tensors that become ready wait: they could not be executed sooner
  /// anyhow, are fused with more, and are overtaken by those of a higher priority. In the steady
  /// state no rank takes more than that from the schedule, and one that stays unfinished for half
  /// the stall check time, or half the collective time-out, ends it. Every rank says it before
  /// advance(), and after each agreement that it has finished; 0 until said.
  void set_backlog(std::size_t agreements) noexcept;

  /// Who is told of arrivals from now on; null: nobody. The steady state has none.
  void set_arrivals(ArrivalSink* arrivals) noexcept;

  /// Looks at the timers.
  void advance(TimePoint now);

  /// When advance() must be called next at the latest; nothing while nothing is to be timed.
  std::optional<TimePoint> next_timer() const;

  /// What to send now, in order. Call after every call above.
  std::vector<OutgoingMessage> take_outgoing();

  /// What was decided, in order: the same order of Agreement, Mismatch and FusionSettings on every
  /// rank. Hold and Revocation hold from now on, whatever is still to be carried out. Nothing
  /// follows a SessionEnd, and one with a failure may come at any time, also during a Hold.
  std::vector<NegotiationEvent> take_events();

  /// Requests of this rank that travelled as a cache number.
  std::int64_t cached_requests() const noexcept;

  const SteadyCounters& steady_counters() const noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace scalecom
