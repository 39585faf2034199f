#include "sparse/sparse_all_reduce.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "compress/offset_codec.hpp"
#include "sparse/parts.hpp"
#include "sparse/value_limit.hpp"

namespace scalecom {
namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

/// `count` elements from `first` on.
kernels::Gradient gradient_of(const SparseSlot& slot, std::int64_t first, std::int64_t count) {
  return {slot.gradient + first * size_of(slot.dtype), slot.dtype, count,
          static_cast<float>(slot.prescale)};
}

float beta_of(const SparseSlot& slot) { return static_cast<float>(slot.beta); }

}  // namespace

SparseAllReduce::SparseAllReduce(Collectives& collectives, int rank, int size,
                                 SparseOptions options)
    : collectives_(collectives), rank_(rank), size_(size), options_(std::move(options)) {}

void SparseAllReduce::start(std::vector<SparseSlot> slots, const SparsePlan& plan, SparseLook look,
                            PhaseSink* phases) {
  lay_out(std::move(slots), plan);
  look_ = std::move(look);
  phases_ = phases;
  has_data_ = true;
}

// What travels then is thrown away; offsets of 0, which are valid in every chunk, are for callers
// that do not hold results back until all ranks know.
void SparseAllReduce::start_nothing(std::vector<SparseSlot> slots, const SparsePlan& plan) {
  lay_out(std::move(slots), plan);
  discard();
}

std::vector<SparseSlot> SparseAllReduce::run(std::vector<SparseSlot> slots, const SparsePlan& plan,
                                             const WaitContext& context, SparseLook look) {
  start(std::move(slots), plan, std::move(look));
  WaitLoop loop(context);
  while (!is_done()) {
    const bool has_moved = collectives_.advance(context);
    if (advance() || has_moved) {
      loop.restart();
    } else {
      collectives_.pause(loop, "ScaleCom all-reduce");
    }
  }
  return slots_;
}

bool SparseAllReduce::advance() {
  if (is_done()) return false;
  const bool is_begun = can_begin(tasks_[task_]);
  if (phases_ != nullptr) enter_phase(tasks_[task_].action, is_begun);
  if (!is_begun) return false;
  if (step(tasks_[task_])) {
    ++task_;
    next_piece_ = 0;
  }
  return true;
}

// An average may have arrived on this host before others have begun: such batches are never void.
void SparseAllReduce::discard() {
  SCALECOM_ASSERT(averages_.empty(), "hosts that are averaged");
  SCALECOM_ASSERT(!is_posted(), "some rank may have a result");
  for (Piece& piece : pieces_) {
    if (piece.is_swept) {
      take_back(piece);
    } else if (piece.leader == rank_) {
      std::ranges::fill(wire_of(piece), std::byte{});
    }
  }
  has_data_ = false;
  phases_ = nullptr;
}

// The buffers never shrink, so that a batch after the first of its size allocates nothing large.
void SparseAllReduce::lay_out(std::vector<SparseSlot> slots, const SparsePlan& plan) {
  SCALECOM_ASSERT(is_done(), "one batch at a time");
  SCALECOM_ASSERT(plan.leader >= 0 && plan.leader < size_,
                  fmt::format("leader {} of {} ranks", plan.leader, size_));
  plan_ = plan;
  slots_ = std::move(slots);
  originals_.clear();
  for (const SparseSlot& slot : slots_) originals_.push_back({slot.gradient, slot.dtype});
  pieces_.clear();
  rounds_.clear();
  cut_rounds();
  plan_tasks();
  const std::size_t selected =
      pieces_.empty() ? 0 : index(pieces_.back().begin + pieces_.back().chunks);
  if (const std::size_t bytes = selected * index(size_of(plan.values)); values_.size() < bytes) {
    values_.resize(bytes);
  }
  if (kept_.size() < selected) {
    kept_.resize(selected);
    offsets_.resize(selected);
  }
  flags_.assign(slots_.size(), 0);
  result_bytes_ = 0;
  std::int64_t elements = 0;
  for (const SparseSlot& slot : slots_) {
    result_bytes_ += slot.count * size_of(slot.dtype);
    elements += slot.count;
  }
  const bool has_averages =
      plan.mode == CompressionMode::hierarchical && collectives_.host_size() > 1;
  averages_ = {};
  if (!has_averages) return;
  const auto memory = average_memory_.acquire(index(elements) * sizeof(float));
  averages_ = {reinterpret_cast<float*>(memory.data()), index(elements)};
}

void SparseAllReduce::cut_rounds() {
  std::vector<Segment> segments;
  std::int64_t elements = 0;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const SparseSlot& slot = slots_[i];
    SCALECOM_ASSERT(slot.rate >= 1 && slot.rate <= kRateMax,
                    fmt::format("{}: rate {}", slot.name, slot.rate));
    const std::int64_t parts = std::max<std::int64_t>(1, slot.count / options_.round_elements);
    for (std::int64_t part = 0; part < parts; ++part) {
      segments.push_back({i, part, parts});
      elements += slot.count / parts;
      if (elements < options_.round_elements) continue;
      add_round(segments);
      segments.clear();
      elements = 0;
    }
  }
  if (!segments.empty()) add_round(segments);
}

// Shards are of the tensor and not of the batch: what is selected must not depend on what travels
// together.
void SparseAllReduce::add_round(std::span<const Segment> segments) {
  Round round{pieces_.size(), 0, 0, std::vector<std::int64_t>(index(size_)), 0, 0};
  if (!rounds_.empty()) {
    const Round& before = rounds_.back();
    round.wire = std::reduce(before.bytes.begin(), before.bytes.end(), before.wire);
  }
  const bool is_sharded = plan_.mode != CompressionMode::cyclic;
  for (int rank = 0; rank < size_; ++rank) {
    if (!is_sharded && rank != plan_.leader) continue;
    for (const Segment& segment : segments) {
      is_sharded ? cut(segment, (rank + plan_.leader) % size_, size_, rank)
                 : cut(segment, 0, 1, rank);
    }
  }
  round.end = pieces_.size();
  std::int64_t end = round.wire;
  for (std::size_t i = round.first; i < round.end; ++i) {
    Piece& piece = pieces_[i];
    piece.wire = end;
    const std::int64_t bytes = piece.chunks * offset_bytes(slots_[piece.slot].rate);
    round.bytes[index(piece.leader)] += bytes;
    end += bytes;
  }
  if (wire_.size() < index(end)) wire_.resize(index(end));
  rounds_.push_back(std::move(round));
}

/// Adds the chunks that begin in the segment's part of a shard, as pieces of one length.
void SparseAllReduce::cut(const Segment& segment, int shard, int shards, int leader) {
  const SparseSlot& slot = slots_[segment.slot];
  const std::int64_t start = part_start(slot.count, shard, shards);
  const std::int64_t length = part_start(slot.count, shard + 1, shards) - start;
  const std::int64_t begin = start + part_start(length, segment.at, segment.of);
  const std::int64_t end = start + part_start(length, segment.at + 1, segment.of);
  const std::int64_t first = selected_count(begin, slot.rate);
  const std::int64_t chunks = selected_count(end, slot.rate) - first;
  const std::int64_t pieces = (end - begin + options_.piece_elements - 1) / options_.piece_elements;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t from = first + part_start(chunks, i, pieces);
    const std::int64_t to = first + part_start(chunks, i + 1, pieces);
    if (to == from) continue;
    Piece piece{segment.slot, from, to - from};
    piece.count = std::min(to * slot.rate, slot.count) - from * slot.rate;
    piece.leader = leader;
    piece.begin = pieces_.empty() ? 0 : pieces_.back().begin + pieces_.back().chunks;
    pieces_.push_back(piece);
  }
}

// A round is selected before the one before it is gathered, so that offsets travel meanwhile.
void SparseAllReduce::plan_tasks() {
  tasks_.assign(1, {Action::average});
  const std::size_t rounds = rounds_.size();
  for (std::size_t i = 0; i <= rounds; ++i) {
    if (i < rounds) {
      tasks_.push_back({Action::select, i});
      tasks_.push_back({Action::share, i});
    }
    if (i > 0) {
      tasks_.push_back({Action::gather, i - 1});
      if (i == rounds) tasks_.push_back({Action::reduce_flags});
      tasks_.push_back({Action::reduce, i - 1});
    }
  }
  tasks_.push_back({Action::decide});
  posted_task_ = tasks_.size() - 1;
  for (std::size_t i = 0; i < rounds; ++i) tasks_.push_back({Action::fill, i});
  tasks_.push_back({Action::finish});
  task_ = 0;
  next_piece_ = 0;
}

std::span<std::byte> SparseAllReduce::wire_of(const Piece& piece) {
  const std::int64_t bytes = piece.chunks * offset_bytes(slots_[piece.slot].rate);
  return std::span(wire_).subspan(index(piece.wire), index(bytes));
}

std::span<std::uint16_t> SparseAllReduce::offsets_of(const Piece& piece) {
  return std::span(offsets_).subspan(index(piece.begin), index(piece.chunks));
}

kernels::Selected SparseAllReduce::taken_by(const Piece& piece) {
  return {value(piece.begin), plan_.values, value_limit(plan_.values, size_),
          kept_.data() + piece.begin};
}

bool SparseAllReduce::can_begin(const Task& task) const {
  switch (task.action) {
    case Action::select: return averages_.empty() || collectives_.is_done(averaging_);
    case Action::gather: return collectives_.is_done(rounds_[task.round].sharing);
    case Action::decide: return collectives_.is_done(flag_reduction_);
    case Action::fill: return collectives_.is_done(rounds_[task.round].reduction);
    case Action::finish: return collectives_.is_done(last_operation_);
    default: return true;
  }
}

void SparseAllReduce::enter_phase(Action action, bool is_begun) const {
  switch (action) {
    case Action::average:
      if (!averages_.empty()) phases_->enter(phases::kHostAverage);
      return;
    case Action::select: return phases_->enter(is_begun ? phases::kSelect : phases::kHostAverage);
    case Action::share: return phases_->enter(phases::kIndexExchange);
    case Action::gather:
      return phases_->enter(is_begun ? phases::kResidualUpdate : phases::kIndexExchange);
    case Action::fill:
      return phases_->enter(is_begun ? phases::kWriteResult : phases::kValuesAllReduce);
    case Action::reduce:
    case Action::reduce_flags:
    case Action::decide: return phases_->enter(phases::kValuesAllReduce);
    case Action::finish: return;
  }
}

/// True when the task is over.
bool SparseAllReduce::step(const Task& task) {
  const auto is_mine = [this](const Piece& piece) { return piece.leader == rank_; };
  switch (task.action) {
    case Action::select: return step_pieces(task, is_mine, [this](Piece& piece) { select(piece); });
    case Action::gather:
      return step_pieces(task, std::not_fn(is_mine), [this](Piece& piece) { gather(piece); });
    case Action::fill: {
      const auto is_sparse = [this](const Piece& piece) { return !slots_[piece.slot].went_dense; };
      return step_pieces(task, is_sparse, [this](Piece& piece) { fill(piece); });
    }
    case Action::average: average(); break;
    case Action::share: share(rounds_[task.round]); break;
    case Action::reduce: reduce(rounds_[task.round]); break;
    case Action::reduce_flags: reduce_flags(); break;
    case Action::decide: decide(); break;
    case Action::finish: break;
  }
  return true;
}

/// Works on the task's next pieces, about as much as one for each thread; true when there are no
/// more.
template <class Wanted, class Body>
bool SparseAllReduce::step_pieces(const Task& task, const Wanted& is_wanted, const Body& body) {
  const Round& round = rounds_[task.round];
  if (!has_data_) return true;
  std::vector<Piece*>& now = pieces_now_;
  now.clear();
  std::int64_t elements = 0;
  for (; elements < options_.threads * options_.piece_elements; ++next_piece_) {
    if (round.first + next_piece_ == round.end) break;
    Piece& piece = pieces_[round.first + next_piece_];
    if (!is_wanted(piece)) continue;
    now.push_back(&piece);
    elements += piece.count;
  }
  if (elements > options_.piece_elements) {
    options_.loop(now.size(), [&](std::size_t i) { body(*now[i]); });
  } else {
    for (Piece* piece : now) body(*piece);
  }
  return round.first + next_piece_ == round.end;
}

// In float32, so that no rounding of an average is lost where gradients have 16 bits.
void SparseAllReduce::average() {
  if (averages_.empty()) return;
  AllReduceBatch batch;
  batch.is_inside_host = true;
  batch.done = [](std::size_t) {};
  std::size_t begin = 0;
  for (SparseSlot& slot : slots_) {
    float* const place = averages_.data() + begin;
    const auto bytes = reinterpret_cast<std::byte*>(place);
    const bool is_float32 = slot.dtype == DataType::float32;
    if (!is_float32) kernels::widen(place, slot.gradient, slot.dtype, slot.count);
    batch.pieces.push_back({is_float32 ? slot.gradient : bytes,
                            bytes,
                            slot.count,
                            {},
                            {1.0, static_cast<double>(collectives_.host_size())}});
    slot.gradient = bytes;
    slot.dtype = DataType::float32;
    begin += index(slot.count);
  }
  averaging_ = note(collectives_.start_all_reduce(std::move(batch)));
}

void SparseAllReduce::select(Piece& piece) {
  const SparseSlot& slot = slots_[piece.slot];
  const std::int64_t first = piece.first * slot.rate;
  const std::span<std::uint16_t> offsets = offsets_of(piece);
  piece.nonfinite_count =
      kernels::select_and_sweep(slot.residual + first, gradient_of(slot, first, piece.count),
                                beta_of(slot), slot.rate, offsets.data(), taken_by(piece));
  piece.is_swept = true;
  encode_offsets(offsets, slot.rate, wire_of(piece));
}

void SparseAllReduce::share(Round& round) {
  const std::int64_t bytes = std::reduce(round.bytes.begin(), round.bytes.end());
  const auto all = std::span(wire_).subspan(index(round.wire), index(bytes));
  round.sharing = note(collectives_.start_all_gather({all, round.bytes}));
}

void SparseAllReduce::gather(Piece& piece) {
  const SparseSlot& slot = slots_[piece.slot];
  const std::int64_t first = piece.first * slot.rate;
  const std::span<std::uint16_t> offsets = offsets_of(piece);
  decode_offsets(wire_of(piece), piece.count, slot.rate, offsets);
  piece.nonfinite_count =
      kernels::gather_and_sweep(slot.residual + first, gradient_of(slot, first, piece.count),
                                beta_of(slot), slot.rate, offsets.data(), taken_by(piece));
  piece.is_swept = true;
}

void SparseAllReduce::reduce(Round& round) {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  if (round.end > round.first) {
    begin = pieces_[round.first].begin;
    end = pieces_[round.end - 1].begin + pieces_[round.end - 1].chunks;
  }
  const std::span values(value(begin), index((end - begin) * size_of(plan_.values)));
  round.reduction = note(
      collectives_.start_all_reduce(AllReduceBatch::in_place(values, plan_.values, ReduceOp::sum)));
}

void SparseAllReduce::reduce_flags() {
  for (SparseSlot& slot : slots_) slot.nonfinite_count = 0;
  for (const Piece& piece : pieces_) slots_[piece.slot].nonfinite_count += piece.nonfinite_count;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    flags_[i] = has_data_ && slots_[i].nonfinite_count > 0;
  }
  flag_reduction_ = note(collectives_.start_all_reduce(AllReduceBatch::in_place(
      std::as_writable_bytes(std::span(flags_)), DataType::uint8, ReduceOp::max)));
}

// The flags are reduced, so every rank comes here for the same tensors in the same order.
void SparseAllReduce::decide() {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].went_dense = flags_[i] != 0;
    if (slots_[i].went_dense) reduce_dense(i);
  }
  if (!has_data_ || !look_) return;
  if (const std::span<std::byte> data = look_(*this); !data.empty()) {
    note(collectives_.start_all_reduce(
        AllReduceBatch::in_place(data, DataType::float32, ReduceOp::sum)));
  }
}

std::vector<SparseChoice> SparseAllReduce::choices(const std::vector<bool>& is_wanted) const {
  std::vector<SparseChoice> choices(slots_.size());
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (!is_wanted[i]) continue;
    const std::size_t selected = index(selected_count(slots_[i].count, slots_[i].rate));
    choices[i].offsets.resize(selected);
    choices[i].kept.resize(selected);
  }
  for (const Piece& piece : pieces_) {
    if (!is_wanted[piece.slot]) continue;
    SparseChoice& choice = choices[piece.slot];
    std::copy_n(offsets_.data() + piece.begin, piece.chunks, choice.offsets.data() + piece.first);
    std::copy_n(kept_.data() + piece.begin, piece.chunks, choice.kept.data() + piece.first);
  }
  return choices;
}

// The memory goes back first: the result may take the gradient's place.
void SparseAllReduce::reduce_dense(std::size_t place) {
  const SparseSlot& slot = slots_[place];
  const auto& [gradient, dtype] = originals_[place];
  for (Piece& piece : pieces_) {
    if (piece.slot == place && piece.is_swept) take_back(piece);
  }
  AllReduceBatch batch;
  batch.dtype = dtype;
  batch.pieces.push_back(
      {gradient, slot.result, slot.count, {slot.prescale, 1.0}, slot.result_scale});
  batch.done = [](std::size_t) {};
  const std::uint64_t reduction = note(collectives_.start_all_reduce(std::move(batch)));
  if (!has_data_) collectives_.discard(reduction);
}

void SparseAllReduce::fill(const Piece& piece) {
  const SparseSlot& slot = slots_[piece.slot];
  float* const values = kept_.data() + piece.begin;
  const auto bytes = reinterpret_cast<std::byte*>(values);
  kernels::widen(values, value(piece.begin), plan_.values, piece.chunks);
  kernels::scale_copy(bytes, bytes, piece.chunks, DataType::float32, slot.result_scale);
  const DataType dtype = originals_[piece.slot].dtype;
  std::byte* const result = slot.result + piece.first * slot.rate * size_of(dtype);
  kernels::fill_selected(result, dtype, piece.count, slot.rate, offsets_.data() + piece.begin,
                         values, result_bytes_);
}

void SparseAllReduce::take_back(Piece& piece) const {
  const SparseSlot& slot = slots_[piece.slot];
  const std::int64_t first = piece.first * slot.rate;
  kernels::restore_selected(slot.residual + first, piece.count, slot.rate,
                            offsets_.data() + piece.begin, kept_.data() + piece.begin);
  kernels::undo_sweep(slot.residual + first, gradient_of(slot, first, piece.count), beta_of(slot));
  piece.is_swept = false;
}

}  // namespace scalecom
