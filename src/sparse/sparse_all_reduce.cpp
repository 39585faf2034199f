#include "sparse/sparse_all_reduce.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.hpp"
#include "compress/offset_codec.hpp"

namespace scalecom {
namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

/// `count` elements from `first` on.
kernels::Gradient gradient_of(const SparseSlot& slot, std::int64_t first, std::int64_t count) {
  return {slot.gradient + first * size_of(slot.dtype), slot.dtype, count,
          static_cast<float>(slot.prescale)};
}

float beta_of(const SparseSlot& slot) { return static_cast<float>(slot.beta); }

/// Where part `at` of `parts` equal parts starts. Divided first: count * at may be too large.
std::int64_t part_start(std::int64_t count, std::int64_t at, std::int64_t parts) {
  return count / parts * at + count % parts * at / parts;
}

/// What n ranks may send each, so that the sum is finite although each addition may round up by a
/// factor of 1 + u.
float value_limit(DataType dtype, int size) {
  const auto limit = [size](double largest, double u) {
    return static_cast<float>(largest / size / std::pow(1.0 + u, size));
  };
  switch (dtype) {
    case DataType::float16: return limit(65504.0, 0x1p-11);
    case DataType::bfloat16: return limit(0x1.FEp127, 0x1p-8);
    default: return std::numeric_limits<float>::infinity();
  }
}

void write_flag(std::byte* place, DataType dtype, bool is_set) {
  constexpr float kOne = 1.0f;
  constexpr std::uint16_t kHalfOne = 0x3C00;
  constexpr std::uint16_t kBfloatOne = 0x3F80;
  const auto bytes = static_cast<std::size_t>(size_of(dtype));
  if (!is_set) {
    std::memset(place, 0, bytes);
    return;
  }
  switch (dtype) {
    case DataType::float16: std::memcpy(place, &kHalfOne, bytes); return;
    case DataType::bfloat16: std::memcpy(place, &kBfloatOne, bytes); return;
    default: std::memcpy(place, &kOne, bytes);
  }
}

bool is_flag_set(const std::byte* place, DataType dtype) {
  float flag = 0.0f;
  kernels::widen(&flag, place, dtype, 1);
  return flag != 0.0f;
}

}  // namespace

SparseAllReduce::SparseAllReduce(Collectives& collectives, int rank, int size,
                                 SparseOptions options)
    : collectives_(collectives), rank_(rank), size_(size), options_(std::move(options)) {}

template <class Body>
void SparseAllReduce::for_each(std::span<Piece> pieces, const Body& body) {
  const std::int64_t elements =
      std::transform_reduce(pieces.begin(), pieces.end(), std::int64_t{0}, std::plus<>(),
                            [](const Piece& piece) { return piece.count; });
  if (elements > options_.piece_elements) {
    options_.loop(pieces.size(), [&](std::size_t i) { body(pieces[i]); });
  } else {
    for (Piece& piece : pieces) body(piece);
  }
}

void SparseAllReduce::exchange(std::span<SparseSlot> slots, const SparsePlan& plan,
                               const WaitContext& context) {
  lay_out(slots, plan);
  for (const Round& round : rounds_) {
    const auto pieces = std::span(pieces_).subspan(round.first, round.end - round.first);
    for_each(pieces, [&](Piece& piece) {
      if (piece.leader == rank_) select(slots, piece);
    });
    share(round, context);
    for_each(pieces, [&](Piece& piece) {
      if (piece.leader != rank_) gather(slots, piece);
    });
  }
  for (SparseSlot& slot : slots) slot.nonfinite_count = 0;
  for (const Piece& piece : pieces_) slots[piece.slot].nonfinite_count += piece.nonfinite_count;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    write_flag(value(starts_.back() + static_cast<std::int64_t>(i)), plan_.values,
               slots[i].nonfinite_count > 0);
  }
  reduce_values(context);
}

// Offset 0 is valid in every chunk.
void SparseAllReduce::exchange_nothing(std::span<const SparseSlot> slots, const SparsePlan& plan,
                                       const WaitContext& context) {
  lay_out(slots, plan);
  std::fill(wire_.begin(), wire_.end(), std::byte{});
  std::fill(values_.begin(), values_.end(), std::byte{});
  for (const Round& round : rounds_) share(round, context);
  reduce_values(context);
}

void SparseAllReduce::take_back(std::span<const SparseSlot> slots) {
  for (std::size_t i = 0; i < slots.size(); ++i) take_back(slots[i], starts_[i]);
}

void SparseAllReduce::take_back(const SparseSlot& slot, std::int64_t begin) const {
  kernels::restore_selected(slot.residual, slot.count, slot.rate, offsets_.data() + begin,
                            kept_.data() + begin);
  kernels::undo_sweep(slot.residual, gradient_of(slot, 0, slot.count), beta_of(slot));
}

// The buffers never shrink, so that a batch after the first of its size allocates nothing large.
void SparseAllReduce::lay_out(std::span<const SparseSlot> slots, const SparsePlan& plan) {
  SCALECOM_ASSERT(plan.leader >= 0 && plan.leader < size_,
                  fmt::format("leader {} of {} ranks", plan.leader, size_));
  plan_ = plan;
  starts_.assign(1, 0);
  for (const SparseSlot& slot : slots) {
    SCALECOM_ASSERT(slot.rate >= 1 && slot.rate <= kRateMax,
                    fmt::format("{}: rate {}", slot.name, slot.rate));
    starts_.push_back(starts_.back() + selected_count(slot.count, slot.rate));
  }
  pieces_.clear();
  rounds_.clear();
  plan.mode == CompressionMode::sharded ? cut_shards(slots) : cut_rounds(slots);
  const std::size_t reduced = index(starts_.back()) + slots.size();
  if (const std::size_t bytes = reduced * index(size_of(plan.values)); values_.size() < bytes) {
    values_.resize(bytes);
  }
  if (kept_.size() < reduced) {
    kept_.resize(reduced);
    offsets_.resize(reduced);
  }
}

/// Adds the chunks of a slot that begin in its elements [begin, end), as pieces of one length.
void SparseAllReduce::cut(std::span<const SparseSlot> slots, std::size_t index, std::int64_t begin,
                          std::int64_t end, int leader) {
  const SparseSlot& slot = slots[index];
  const std::int64_t first = selected_count(begin, slot.rate);
  const std::int64_t chunks = selected_count(end, slot.rate) - first;
  const std::int64_t pieces = (end - begin + options_.piece_elements - 1) / options_.piece_elements;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t from = first + part_start(chunks, i, pieces);
    const std::int64_t to = first + part_start(chunks, i + 1, pieces);
    if (to == from) continue;
    const std::int64_t count = std::min(to * slot.rate, slot.count) - from * slot.rate;
    pieces_.push_back({index, from, to - from, count, 0, leader, 0});
  }
}

// By the tensor and not by the batch: what is selected must not depend on what travels together.
void SparseAllReduce::cut_shards(std::span<const SparseSlot> slots) {
  for (int rank = 0; rank < size_; ++rank) {
    const int shard = (rank + plan_.leader) % size_;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      cut(slots, i, part_start(slots[i].count, shard, size_),
          part_start(slots[i].count, shard + 1, size_), rank);
    }
  }
  place_round(slots, 0);
}

void SparseAllReduce::cut_rounds(std::span<const SparseSlot> slots) {
  const std::int64_t elements =
      std::transform_reduce(slots.begin(), slots.end(), std::int64_t{0}, std::plus<>(),
                            [](const SparseSlot& slot) { return slot.count; });
  const std::int64_t rounds = std::max<std::int64_t>(1, elements / options_.round_elements);
  for (std::int64_t round = 0; round < rounds; ++round) {
    const std::size_t first = pieces_.size();
    std::int64_t begin = part_start(elements, round, rounds);
    std::int64_t end = part_start(elements, round + 1, rounds);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const std::int64_t count = slots[i].count;
      cut(slots, i, std::clamp<std::int64_t>(begin, 0, count),
          std::clamp<std::int64_t>(end, 0, count), plan_.leader);
      begin -= count;
      end -= count;
    }
    place_round(slots, first);
  }
}

/// Makes a round of the pieces from `first` on; those of one leader follow each other.
void SparseAllReduce::place_round(std::span<const SparseSlot> slots, std::size_t first) {
  Round round{first, pieces_.size(), 0, std::vector<std::int64_t>(index(size_))};
  if (!rounds_.empty()) {
    const Round& before = rounds_.back();
    round.wire = std::reduce(before.bytes.begin(), before.bytes.end(), before.wire);
  }
  std::int64_t end = round.wire;
  for (std::size_t i = first; i < pieces_.size(); ++i) {
    Piece& piece = pieces_[i];
    piece.wire = end;
    const std::int64_t bytes = piece.chunks * offset_bytes(slots[piece.slot].rate);
    round.bytes[index(piece.leader)] += bytes;
    end += bytes;
  }
  if (wire_.size() < index(end)) wire_.resize(index(end));
  rounds_.push_back(std::move(round));
}

std::span<std::byte> SparseAllReduce::wire_of(const Piece& piece, std::int64_t rate) {
  return std::span(wire_).subspan(index(piece.wire), index(piece.chunks * offset_bytes(rate)));
}

std::span<std::uint16_t> SparseAllReduce::offsets_of(const Piece& piece) {
  return std::span(offsets_).subspan(index(starts_[piece.slot] + piece.first), index(piece.chunks));
}

kernels::Selected SparseAllReduce::taken_by(const Piece& piece) {
  const std::int64_t begin = starts_[piece.slot] + piece.first;
  return {value(begin), plan_.values, value_limit(plan_.values, size_), kept_.data() + begin};
}

void SparseAllReduce::select(std::span<const SparseSlot> slots, Piece& piece) {
  const SparseSlot& slot = slots[piece.slot];
  const std::int64_t first = piece.first * slot.rate;
  const std::span<std::uint16_t> offsets = offsets_of(piece);
  piece.nonfinite_count =
      kernels::select_and_sweep(slot.residual + first, gradient_of(slot, first, piece.count),
                                beta_of(slot), slot.rate, offsets.data(), taken_by(piece));
  encode_offsets(offsets, slot.rate, wire_of(piece, slot.rate));
}

void SparseAllReduce::share(const Round& round, const WaitContext& context) {
  const std::int64_t bytes = std::reduce(round.bytes.begin(), round.bytes.end());
  const auto all = std::span(wire_).subspan(index(round.wire), index(bytes));
  if (plan_.mode != CompressionMode::sharded) {
    collectives_.broadcast(all, plan_.leader, context);
    return;
  }
  const std::int64_t before = std::reduce(round.bytes.begin(), round.bytes.begin() + rank_);
  collectives_.all_gather(all.subspan(index(before), index(round.bytes[index(rank_)])), all,
                          round.bytes, context);
}

void SparseAllReduce::gather(std::span<const SparseSlot> slots, Piece& piece) {
  const SparseSlot& slot = slots[piece.slot];
  const std::int64_t first = piece.first * slot.rate;
  const std::span<std::uint16_t> offsets = offsets_of(piece);
  decode_offsets(wire_of(piece, slot.rate), piece.count, slot.rate, offsets);
  piece.nonfinite_count =
      kernels::gather_and_sweep(slot.residual + first, gradient_of(slot, first, piece.count),
                                beta_of(slot), slot.rate, offsets.data(), taken_by(piece));
}

void SparseAllReduce::reduce_values(const WaitContext& context) {
  const auto slots = static_cast<std::int64_t>(starts_.size()) - 1;
  const std::int64_t bytes = (starts_.back() + slots) * size_of(plan_.values);
  collectives_.all_reduce(std::span(values_).first(index(bytes)), plan_.values, ReduceOp::sum,
                          context);
}

void SparseAllReduce::deliver(std::span<SparseSlot> slots, const WaitContext& context) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    slots[i].went_dense =
        is_flag_set(value(starts_.back() + static_cast<std::int64_t>(i)), plan_.values);
    if (slots[i].went_dense) reduce_dense(slots[i], starts_[i], context);
  }
  for_each(pieces_, [&](const Piece& piece) {
    if (!slots[piece.slot].went_dense) fill(slots, piece);
  });
}

void SparseAllReduce::fill(std::span<const SparseSlot> slots, const Piece& piece) {
  const SparseSlot& slot = slots[piece.slot];
  const std::int64_t begin = starts_[piece.slot] + piece.first;
  float* const values = kept_.data() + begin;
  const auto bytes = reinterpret_cast<std::byte*>(values);
  kernels::widen(values, value(begin), plan_.values, piece.chunks);
  kernels::scale_copy(bytes, bytes, piece.chunks, DataType::float32, slot.result_scale);
  std::byte* const result = slot.result + piece.first * slot.rate * size_of(slot.dtype);
  kernels::fill_selected(result, slot.dtype, piece.count, slot.rate, offsets_.data() + begin,
                         values);
}

// The flags are reduced, so every rank comes here for the same tensors in the same order. The
// memory goes back first: the result may take the gradient's place.
void SparseAllReduce::reduce_dense(SparseSlot& slot, std::int64_t begin,
                                   const WaitContext& context) {
  take_back(slot, begin);
  kernels::scale_copy(slot.result, slot.gradient, slot.count, slot.dtype, {slot.prescale, 1.0});
  collectives_.all_reduce({slot.result, index(slot.count * size_of(slot.dtype))}, slot.dtype,
                          ReduceOp::sum, context);
  kernels::scale_copy(slot.result, slot.result, slot.count, slot.dtype, slot.result_scale);
}

}  // namespace scalecom
