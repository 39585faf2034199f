#include "runtime/timeline/timeline.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace scalecom {
namespace {

constexpr const char* kQueue = "QUEUE";
constexpr const char* kMorePhases = "MORE_PHASES";

// No tensor's row: what it would tell is lost.
constexpr TimelineRow kNoRow = 0;

struct Names {
  const char* negotiation;
  const char* operation;
  const char* activity;
};

// By OperationKind.
constexpr std::array<Names, 7> kNames{
    {{"NEGOTIATE_ALLREDUCE", "ALLREDUCE", phases::kAllReduce},
     {"NEGOTIATE_ALLGATHER", "ALLGATHER", "MPI_ALLGATHER"},
     {"NEGOTIATE_BROADCAST", "BROADCAST", "MPI_BCAST"},
     {"NEGOTIATE_BARRIER", "BARRIER", "BARRIER"},
     {"NEGOTIATE_REDUCESCATTER", "REDUCESCATTER", "MPI_REDUCESCATTER"},
     {"NEGOTIATE_ALLTOALL", "ALLTOALL", "MPI_ALLTOALL"},
     {"JOIN", "JOIN", "JOIN"}}};  // One span, until all have joined.
static_assert(kNames.size() == static_cast<std::size_t>(OperationKind::join) + 1);

const Names& names_of(OperationKind kind) noexcept {
  return kNames[static_cast<std::size_t>(kind)];
}

}  // namespace

const char* timeline_operation(OperationKind kind) noexcept { return names_of(kind).operation; }
const char* timeline_activity(OperationKind kind) noexcept { return names_of(kind).activity; }

void BatchTimes::enter(const char* phase) {
  if (!phases_.empty() && phases_.back().name == phase) return;
  if (phases_.size() > kPhasesMax) return;
  phases_.push_back({phases_.size() == kPhasesMax ? kMorePhases : phase, Clock::now()});
}

void Timeline::start(std::unique_ptr<TimelineWriter> writer, bool has_cycles) {
  writer_ = std::move(writer);
  has_cycles_ = has_cycles;
  rows_.clear();
  row_times_.assign(1, {});
}

std::unique_ptr<TimelineWriter> Timeline::stop() noexcept { return std::move(writer_); }

TimelineRow Timeline::row_of(const std::string& name) {
  if (const auto found = rows_.find(name); found != rows_.end()) return found->second;
  if (rows_.size() == TimelineWriter::kRowsMax) return kNoRow;
  const TimelineRow row = writer_->add_row(name);
  rows_.emplace(name, row);
  row_times_.emplace_back();
  return row;
}

void Timeline::push(TimelineRow row, TimePoint begin, TimePoint end, TimelineSpan span) {
  span.length = end - begin;
  writer_->push({begin, row, span});
}

void Timeline::submit(const std::string& name, TensorTimes& times, TimePoint now) {
  times = {row_of(name), now, {}};
  if (RowTimes& row = row_times_[times.row]; row.heard == TimePoint{}) row.heard = now;
}

void Timeline::arrive(const std::string& name, int first_rank, int end_rank, TimePoint now) {
  const TimelineRow row = row_of(name);
  if (row == kNoRow) return writer_->lose();
  if (row_times_[row].heard == TimePoint{}) row_times_[row].heard = now;
  writer_->push({now, row, TimelineArrival{first_rank, end_rank}});
}

// Other ranks may ask for a tensor's next call before this one has completed the last.
void Timeline::agree(const std::string& name, TensorTimes& times, OperationKind kind,
                     TimePoint now) {
  if (!is_current(times.submitted)) return forget(name);  // Before the timeline began.
  if (times.row == kNoRow) return writer_->lose();
  RowTimes& row = row_times_[times.row];
  const TimePoint heard = std::exchange(row.heard, {});
  const TimePoint begin = std::max(heard == TimePoint{} ? times.submitted : heard, row.ended);
  push(times.row, begin, now, {.name = names_of(kind).negotiation});
  times.agreed = row.ended = now;
}

void Timeline::forget(const std::string& name) {
  if (const auto found = rows_.find(name); found != rows_.end()) row_times_[found->second] = {};
}

void Timeline::begin_cycle(TimePoint now) {
  if (has_cycles_) writer_->push({now, 0, TimelineCycle{}});
}

std::unique_ptr<BatchTimes> Timeline::start_batch(const BatchFacts& facts) const {
  return is_on() ? std::make_unique<BatchTimes>(facts) : nullptr;
}

void Timeline::complete(const TensorTimes& times, const BatchTimes& batch, std::int64_t step,
                        TimePoint now) {
  if (!is_current(times.submitted) || !is_current(times.agreed)) return;
  if (times.row == kNoRow) return writer_->lose();
  const BatchFacts& facts = batch.facts();
  push(times.row, times.agreed, now,
       {.name = facts.operation,
        .length = {},
        .step = step,
        .batch_bytes = facts.bytes,
        .batch_tensors = facts.tensors,
        .leader = facts.leader});
  push(times.row, times.agreed, batch.started(), {.name = kQueue});
  const std::vector<BatchTimes::Phase>& phases = batch.phases();
  for (std::size_t i = 0; i < phases.size(); ++i) {
    const TimePoint end = i + 1 < phases.size() ? phases[i + 1].begin : now;
    push(times.row, phases[i].begin, end, {.name = phases[i].name});
  }
  row_times_[times.row].ended = now;
}

void Timeline::sample(std::span<const CompressionHealth> health) {
  const TimePoint now = Clock::now();
  for (const CompressionHealth& tensor : health) {
    const TimelineRow row = row_of(tensor.name);
    if (row == kNoRow) {
      writer_->lose();
      continue;
    }
    writer_->push({now, row,
                   TimelineHealth{.relative_error = tensor.relative_error,
                                  .residual_to_gradient = tensor.residual_to_gradient,
                                  .hamming_distance = tensor.hamming_distance,
                                  .chunk_overlap = tensor.chunk_overlap}});
  }
}

}  // namespace scalecom
