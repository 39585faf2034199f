#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "scalecom/compression.hpp"
#include "scalecom/config.hpp"
#include "scalecom/explanation.hpp"
#include "scalecom/export.hpp"
#include "scalecom/health.hpp"
#include "scalecom/status.hpp"
#include "scalecom/tensor.hpp"
#include "scalecom/ticket.hpp"

namespace scalecom {

/// Who this rank is. Local: among the ranks of its host; cross: among the ranks with its local
/// rank on other hosts.
struct Topology {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  int cross_rank = 0;
  int cross_size = 1;
  /// True when every host has the same number of ranks.
  bool is_homogeneous = true;
  /// Host of each rank, by rank.
  std::vector<std::string> hosts;
};

/// How a reduction combines the ranks' values.
struct ReduceOptions {
  ReduceOp op = ReduceOp::average;
  /// Each rank's values are multiplied by it before the reduction.
  double prescale = 1.0;
  /// The result is multiplied by it (after the division of an average).
  double postscale = 1.0;
};

/// How one all-reduce does.
struct AllReduceOptions : ReduceOptions {
  Compression compression;
  /// Higher is needed sooner, for example by the next forward pass: among the tensors that every
  /// rank has submitted, those of higher priority go first, equal ones in the order in which they
  /// became so. What has been agreed on already is not overtaken. Any value; the same on every
  /// rank.
  std::int32_t priority = 0;
};

/// A tensor of a group, with what Session::all_reduce() takes for it.
struct GroupMember {
  std::string name;
  TensorView input;
  TensorView output;
  std::optional<AllReduceOptions> options = {};  ///< where they are not the group's
};

/// A tensor of a group whose results are its tickets' own, or which is worked on in place.
struct NamedInput {
  std::string name;
  TensorView input;
};

/// What a session has done so far, counted and not computed. Since init, on this rank.
struct SessionStats {
  std::int64_t data_bytes_sent = 0;  ///< payload handed to the transport
  std::int64_t data_messages_sent = 0;
  std::int64_t control_bytes_sent = 0;  ///< negotiation
  std::int64_t control_messages_sent = 0;
  std::int64_t tensors_completed = 0;
  std::int64_t batches_executed = 0;
  std::int64_t tensors_negotiated_from_cache = 0;
  std::int64_t compressed_tensors = 0;
  std::int64_t nonfinite_tensors = 0;  ///< compressed tensors that went dense because of NaN or Inf
  /// Residuals dropped because the tensor's shape changed, or because what was restored had none.
  std::int64_t residual_resets = 0;
  std::int64_t steady_agreements = 0;  ///< carried out without negotiation
  std::int64_t steady_leaves = 0;      ///< returns to negotiation from that
  std::int64_t guard_halvings = 0;     ///< times that a guard raised a tensor's density
  std::int64_t device_batches = 0;     ///< of CUDA tensors, among batches_executed
  /// While any was being enqueued, from its start until all of it was. More than 8 that are not
  /// done on the device wait for it meanwhile.
  std::int64_t device_enqueue_us = 0;
};

/// The error-feedback memory of one compressed tensor on this rank.
struct Residual {
  std::string name;
  Shape shape;
  /// The tensor's next step: leader and warm-up follow from it.
  std::int64_t step = 0;
  std::vector<float> values;
  /// Discount of the filter that made the values: the rank owes values / beta. 0: not known; it is
  /// then taken for that of the tensor's next compressed step.
  double beta = 0.0;
};

/// A residual without its values.
struct ResidualInfo {
  std::string name;
  Shape shape;
  std::int64_t step = 0;
  double beta = 0.0;
};

/// What was loaded and how the ranks are connected, for scalecom-info.
struct SessionReport {
  std::string launcher;     ///< what said who this rank is: "MPI (OMPI_COMM_WORLD_SIZE)", ...
  std::string transport;    ///< between hosts: "mpi", "sockets", "loopback"
  std::string collectives;  ///< "shared memory", "hierarchical", "messages", "mpi"
  /// Why ranks of a host do not share memory; empty: they do, or need not.
  std::string shared_memory;
  std::string library;       ///< e.g. the MPI library's version line; empty without one
  std::string thread_level;  ///< MPI's; empty without MPI
  std::string cuda_aware;    ///< whether MPI says it is: "yes", "no", "not said"; empty without MPI
  std::string simd_target;   ///< instruction set the kernels chose
  std::string control_plane;  ///< "star", "tree"
  std::string tuning_source;  ///< "defaults", "measured now", "file PATH"
  std::string tuning;         ///< JSON object of the figures that the collectives choose by
};

class SessionImpl;

/// A rank's membership in a job: owns the coordinator thread, the transports and the residuals.
/// Every public method may be called from any thread.
///
/// Submitting never blocks on other ranks. A name identifies a tensor across ranks and steps and
/// may be in flight once. Argument errors throw Error(invalid_argument) at the call and submit
/// nothing; everything later arrives in the ticket.
class SCALECOM_API Session {
 public:
  /// Joins the job this process was launched in: under mpirun over MPI; over sockets as the rank
  /// that RANK and WORLD_SIZE (torchrun) or srun say; otherwise alone as one rank. Throws Error
  /// when the ranks cannot be connected in config.connect_timeout_s, when MPI is missing or its
  /// thread level is too low, or when ranks disagree about settings; Error(invalid_argument) for a
  /// value of `config` that docs/configuration.md does not allow; Error(shut_down) soon after a
  /// stop is requested of `called_off` while it waits for ranks that have not come.
  static std::unique_ptr<Session> connect(const Config& config, std::stop_token called_off = {});

  /// For tests and programs with their own wiring; see runtime/session_impl.hpp.
  explicit Session(std::unique_ptr<SessionImpl> impl);

  /// shutdown(), then releases everything.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Leaves the job. Ends the session on every rank: tensors that all ranks had agreed on still
  /// complete, all others complete with StatusCode::shut_down. Idempotent; bounded in time.
  void shutdown();

  /// Ok, or the first cause of the session's end or failure.
  Status status() const;

  /// Who this rank is; fixed from connect() on. Valid while the session lives.
  const Topology& topology() const noexcept;

  /// output = op over ranks of input. `input` and `output` have one shape and dtype and may be the
  /// same memory; otherwise they must not overlap.
  Ticket all_reduce(std::string name, TensorView input, TensorView output,
                    const AllReduceOptions& options = {});

  /// all_reduce() of each member at the cost of little more than one submit, with one ticket, which
  /// completes when all members have; its outcome is the first error of one of them. All members
  /// are submitted, or none: what all_reduce() would throw for one holds for the group. The ranks
  /// need not submit the same groups, only the same tensors. Without members: complete at once.
  Ticket all_reduce_group(std::vector<GroupMember> members, const AllReduceOptions& options = {});

  /// Concatenates the ranks' inputs along the first dimension, which may differ between ranks;
  /// the other extents must agree. The result is ticket.output().
  Ticket all_gather(const std::string& name, const TensorView& input);

  /// all_gather() of each input, at the cost of little more than one submit, with a ticket for
  /// each, in their order. All are submitted, or none.
  std::vector<Ticket> all_gather_group(const std::vector<NamedInput>& inputs);

  /// Reduces the ranks' inputs, which have one shape, and gives each rank its part: the first
  /// dimension is cut in rank order, as evenly as can be, and the first ranks get the rows that
  /// are left over. The result is ticket.output(); it has no rows for some where there are fewer
  /// than ranks.
  Ticket reduce_scatter(const std::string& name, const TensorView& input,
                        const ReduceOptions& options = {});

  /// reduce_scatter() of each input, as all_gather_group().
  std::vector<Ticket> reduce_scatter_group(const std::vector<NamedInput>& inputs,
                                           const ReduceOptions& options = {});

  /// Gives splits[p] rows of `input` to rank p, in rank order: the first dimension may differ
  /// between ranks, the other extents must agree. Without splits all parts are equal, and the
  /// first dimension must be a multiple of the world size. The result, the ranks' parts in rank
  /// order, is ticket.output(); how many rows each rank gave, ticket.received_splits().
  Ticket all_to_all(const std::string& name, const TensorView& input,
                    const std::vector<std::int64_t>& splits = {});

  /// tensor = root's tensor, in place.
  Ticket broadcast(const std::string& name, const TensorView& tensor, int root);

  /// broadcast() of each tensor, at the cost of little more than one submit, with one ticket, as
  /// that of all_reduce_group(). All are submitted, or none.
  Ticket broadcast_group(const std::vector<NamedInput>& tensors, int root);

  /// Completes when every rank has submitted it; overtakes pending tensors.
  Ticket barrier();

  /// This rank is out of data, the others perhaps not: until the ticket completes it takes part in
  /// what they submit with zeros (an all_gather, all_to_all: with no rows), averages still divide
  /// by the number of all ranks, and this rank's own submits throw Error(invalid_argument). What a
  /// compressed tensor owes is delivered meanwhile like in any step. Completes when every rank has
  /// joined; ticket.output() is then one int64, the last rank to join, the same everywhere. What
  /// cannot be taken part in fails with StatusCode::mismatch on the ranks that submitted it: a
  /// broadcast from a rank that has joined, a tensor on a CUDA device where this rank has none. Its
  /// device is that of its tensors so far; else the one of the number `device`, if it is there and
  /// not negative. Process sets are sessions of their own, and are joined by themselves.
  Ticket join(int device = -1);

  /// A session of some of this one's ranks, in the order of `ranks`: with tensors, residuals,
  /// thread and connections of its own, so neither holds the other up. Null on a rank that is not
  /// in `ranks`. Every rank of this session calls it, with the same ranks and in the same order as
  /// other calls of it, one at a time; it waits for all of them. Throws Error on every rank when
  /// one cannot connect or gives other ranks, and invalid_argument for ranks that are not there.
  ///
  /// What is written to files is this session's: the other one has no health file, and a timeline
  /// when it is told to start one.
  std::unique_ptr<Session> make_process_set(const std::vector<int>& ranks);

  /// What ranks that know each other otherwise use to meet: each gives a text and gets everyone's,
  /// in rank order. Throws when not all have come within `limit_s` seconds.
  using Exchange = std::function<std::vector<std::string>(const std::string& mine, double limit_s)>;

  /// make_process_set() by the set's own ranks alone, of which this is one: they meet by
  /// `exchange`, which is called in this thread, as often on each of them. Throws Error, and what
  /// `exchange` throws.
  std::unique_ptr<Session> connect_process_set(const std::vector<int>& ranks,
                                               const Exchange& exchange) const;

  /// This rank's residuals, ordered by name. Like the two below, waits for the batch that is being
  /// executed.
  std::vector<ResidualInfo> residuals() const;

  /// A copy of one. Throws Error(invalid_argument) when there is none of this name.
  Residual residual(const std::string& name) const;

  /// Replaces (or creates) residuals; others keep theirs. One without values is of zeros; zeros in
  /// the place of a residual drop what it owed, which SessionStats::residual_resets counts. Throws
  /// Error(invalid_argument), and replaces none, where one has other values than its shape needs,
  /// or NaN or Inf. Call it on every rank, with no compressed tensor of these names in flight.
  void restore_residuals(std::vector<Residual> residuals);

  /// The last sampled figures of each compressed tensor, ordered by name; empty as long as none was
  /// sampled. Waits for the batch that is being executed.
  std::vector<CompressionHealth> compression_health() const;

  /// From now on this rank's tensors are told to the timeline `path`, a Chrome trace that rank 0
  /// writes; with "{rank}" in it, which stands for the rank, every rank that calls writes its own
  /// (docs/howto/read-a-timeline.md). A file that is there is replaced. `mark_cycles`: with a mark
  /// for each agreement. Throws Error(invalid_argument) while one runs, and where this rank cannot
  /// write the file.
  void start_timeline(const std::string& path, bool mark_cycles = false);

  /// Ends it, and returns when the file is complete; without one does nothing. So does shutdown().
  void stop_timeline();

  /// How all_reduce() carries out `bytes`, and what the alternatives would take. Throws
  /// Error(invalid_argument) for less than 0.
  AllReduceExplanation explain_all_reduce(std::int64_t bytes) const;

  /// What `compression` does with a tensor of `count` elements of `dtype` on such a device, and
  /// why. Throws Error(invalid_argument) for what all_reduce() would refuse.
  CompressionExplanation explain_compression(std::int64_t count, DataType dtype,
                                             const Compression& compression,
                                             DeviceKind device = DeviceKind::host) const;

  /// What it was connected with, and what autotune has changed since, with that as the source.
  Config config() const;

  /// A copy of this rank's counters; each is read by itself, so they may be of different moments.
  SessionStats stats() const;
  /// How the ranks are connected, as it was found by connect().
  SessionReport report() const;

 private:
  std::unique_ptr<SessionImpl> impl_;
};

}  // namespace scalecom
