#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/phase_sink.hpp"
#include "runtime/negotiation.hpp"
#include "runtime/timeline/tensor_times.hpp"
#include "runtime/timeline/timeline_writer.hpp"
#include "scalecom/health.hpp"

namespace scalecom {

/// What is known of a batch when it starts. The names are literals.
struct BatchFacts {
  const char* operation = nullptr;  ///< ALLREDUCE, ...
  std::int64_t bytes = 0;
  std::int32_t tensors = 0;
  std::int32_t leader = -1;
};

/// The phases that a batch has been in, with the times at which it entered them.
class BatchTimes final : public PhaseSink {
 public:
  /// Phases that are kept; all that follow are one, MORE_PHASES.
  static constexpr std::size_t kPhasesMax = 64;

  struct Phase {
    const char* name = nullptr;
    TimePoint begin{};
  };

  explicit BatchTimes(const BatchFacts& facts) : facts_(facts) {}

  void enter(const char* phase) override;

  const BatchFacts& facts() const noexcept { return facts_; }
  TimePoint started() const noexcept { return started_; }
  const std::vector<Phase>& phases() const noexcept { return phases_; }

 private:
  const BatchFacts facts_;
  const TimePoint started_ = Clock::now();
  std::vector<Phase> phases_;
};

/// What a session tells about its tensors while a timeline runs, as spans that nest and do not
/// overlap on a tensor's row. A row is negotiated, then in an operation, which has the wait for
/// batches before it (QUEUE) and the batch's phases in it, and so on.
///
/// Confined to the coordinator's thread. While none runs nothing but is_on() may be called.
class Timeline final : public ArrivalSink {
 public:
  bool is_on() const noexcept { return writer_ != nullptr; }
  void start(std::unique_ptr<TimelineWriter> writer, bool has_cycles);
  /// Gives the writer back, whose end writes what is left; null: none ran.
  std::unique_ptr<TimelineWriter> stop() noexcept;

  void submit(const std::string& name, TensorTimes& times, TimePoint now);
  void arrive(const std::string& name, int first_rank, int end_rank, TimePoint now) override;
  /// Its negotiation is over, well or not.
  void agree(const std::string& name, TensorTimes& times, OperationKind kind, TimePoint now);
  /// Others have agreed on it, without a call here.
  void forget(const std::string& name);
  void begin_cycle(TimePoint now);
  /// Null while none runs.
  std::unique_ptr<BatchTimes> start_batch(const BatchFacts& facts) const;
  /// The tensor, a member of the batch, has its result. step: of a compressed one, else -1.
  void complete(const TensorTimes& times, const BatchTimes& batch, std::int64_t step,
                TimePoint now);
  void sample(std::span<const CompressionHealth> health);

 private:
  TimelineRow row_of(const std::string& name);
  void push(TimelineRow row, TimePoint begin, TimePoint end, TimelineSpan span);
  bool is_current(TimePoint time) const noexcept { return time >= writer_->start(); }

  std::unique_ptr<TimelineWriter> writer_;
  bool has_cycles_ = false;
  std::unordered_map<std::string, TimelineRow> rows_;
  /// By row: when the present negotiation was first heard of, and when the last span ended.
  struct RowTimes {
    TimePoint heard{};
    TimePoint ended{};
  };
  std::vector<RowTimes> row_times_;
};

/// ALLREDUCE, ALLGATHER, BROADCAST, BARRIER, REDUCESCATTER, ALLTOALL.
const char* timeline_operation(OperationKind kind) noexcept;
/// The phase of one that is carried out as a whole: MPI_ALLGATHER, MPI_BCAST, ...
const char* timeline_activity(OperationKind kind) noexcept;

}  // namespace scalecom
