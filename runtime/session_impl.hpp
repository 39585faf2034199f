#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "collective/collectives.hpp"
#include "collective/tuning.hpp"
#include "mpi_plugin/mpi_backend.hpp"
#include "runtime/compression_plan.hpp"
#include "runtime/control/control_channel.hpp"
#include "runtime/control/host_segment.hpp"
#include "runtime/coordinator.hpp"
#include "runtime/tensor_queue.hpp"
#include "scalecom/session.hpp"
#include "transport/bootstrap.hpp"
#include "transport/shm/board.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// What a session is wired from. Members are destroyed in reverse order.
struct SessionParts {
  Config config;
  /// What stands before its messages; see Coordinator::Parts.
  std::string scope;
  Topology topology;
  /// Of each rank, the number of its host, as the collectives see hosts.
  std::vector<int> host_of_rank;
  SessionReport report;
  Tuning tuning;
  /// What the parts below are made of; null without MPI.
  std::shared_ptr<MpiBackend> backend;
  std::unique_ptr<Transport> transport;
  HostSegment host_segment;
  /// In place of the segment, where ranks do not share memory.
  std::vector<Board::Line> board_memory;
  std::unique_ptr<Board> board;
  std::unique_ptr<Collectives> collectives;
  std::unique_ptr<ControlChannel> channel;
  MakeAccelerator make_accelerator;
  /// All ranks call it at once, with nothing under way in `parts.collectives`.
  std::function<std::unique_ptr<DeviceCollectives>(Accelerator&, const SessionParts& parts,
                                                   const WaitContext&)>
      make_device_collectives;
};

/// Owns the parts, the queue and the coordinator's thread.
class SessionImpl {
 public:
  explicit SessionImpl(SessionParts parts);
  ~SessionImpl();

  /// The tensor has been checked.
  Ticket submit(PendingTensor tensor);
  /// The same for a group with one ticket: all are submitted, or none.
  Ticket submit_group(std::vector<PendingTensor> tensors);
  /// The same with a ticket for each, in their order.
  std::vector<Ticket> submit_each(std::vector<PendingTensor> tensors);
  /// The CUDA device of this number is the session's, if that has none yet and there is such a one.
  void take_device(int index);

  /// False where this process was forked from the session's: shutdown() does nothing there, and
  /// what needs the other ranks throws.
  bool is_of_this_process() const noexcept { return coordinator_.seat()->owner().is_here(); }
  /// Throws where it is false.
  void check_process() const { coordinator_.seat()->owner().check(); }
  void shutdown();
  Status status() const;
  std::vector<ResidualInfo> residuals();
  Residual residual(const std::string& name);
  void restore_residuals(std::vector<Residual> residuals);
  std::vector<CompressionHealth> compression_health();
  void start_timeline(const std::string& path, bool mark_cycles);
  void stop_timeline();

  /// As it was connected with.
  const Config& config() const noexcept { return parts_.config; }
  /// As it is now.
  Config current_config();
  const Topology& topology() const noexcept { return parts_.topology; }
  SessionReport report() const { return parts_.report; }
  AllReduceExplanation explain_all_reduce(std::int64_t bytes) const {
    return parts_.collectives->explain_all_reduce(bytes);
  }
  CompressionExplanation explain_compression(std::int64_t count, DataType dtype,
                                             Compression compression, DeviceKind device) const;
  /// What a tensor's compression amounts to: never by_setting, and automatic only for a CUDA
  /// tensor, about which the coordinator decides. Any thread.
  CompressionMode mode_of(const TensorView& tensor, const Compression& compression);
  /// Coordinator::Parts::choose_mode.
  std::optional<CompressionMode> mode_on_device(std::int64_t count, DataType dtype,
                                                const Compression& compression);
  SessionStats stats() const { return stats_.snapshot(); }

 private:
  /// Runs `task` on the coordinator's thread between two batches, or here once that has ended.
  /// Throws what it throws.
  void run_on_coordinator(const CoordinatorTask& task);
  /// The same, without waiting for a batch: for what touches nothing of it.
  void run_urgently(const CoordinatorTask& task);
  void run_by(bool (TensorQueue::*push)(CoordinatorTask), const CoordinatorTask& task);
  /// Null where this rank writes none. `origin`: where the path comes from.
  std::unique_ptr<TimelineWriter> open_timeline(const std::string& path, const std::string& origin);
  void start_timeline_by_setting();
  void join();
  void push_group(std::vector<PendingTensor> tensors);
  void mark_ready(PendingTensor& tensor, const PendingTensor* before);
  double all_reduce_time_s(std::int64_t bytes) const;
  PlanCosts plan_costs(DeviceKind device) const;
  CompressionMode automatic_mode(std::int64_t count, DataType dtype, const Compression& compression,
                                 DeviceKind device);

  SessionParts parts_;
  SessionDevice device_;
  TensorQueue queue_;
  SharedStats stats_;
  Coordinator coordinator_;
  std::mutex modes_mutex_;
  /// Of automatic ones, by elements, dtype, rate, dtype of values and device.
  std::map<std::tuple<std::int64_t, DataType, std::int64_t, DataType, DeviceKind>, CompressionMode>
      modes_;
  std::mutex timeline_mutex_;
  /// As it was given, of the one that runs; empty: none. Also where this rank does not write it.
  std::string timeline_path_;
  std::mutex join_mutex_;
  std::thread thread_;
};

/// Finds the other ranks and wires a session: under an MPI launcher over MPI, else over sockets
/// where RANK and WORLD_SIZE say so, else alone. See Session::connect.
SessionParts connect_session(const Config& config, std::stop_token called_off);

/// Wires a session of the ranks of `bootstrap`, over shared memory and sockets.
SessionParts connect_over(Bootstrap& bootstrap, const Config& config);

}  // namespace scalecom
