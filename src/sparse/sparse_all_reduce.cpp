#include "sparse/sparse_all_reduce.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "compress/offset_codec.hpp"
#include "kernels/select.hpp"

namespace scalecom {
namespace {

kernels::Gradient gradient_of(const SparseSlot& slot) {
  return {slot.gradient, slot.dtype, slot.count, static_cast<float>(slot.prescale)};
}

float beta_of(const SparseSlot& slot) { return static_cast<float>(slot.beta); }

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace

SparseAllReduce::SparseAllReduce(Collectives& collectives, int rank, int size)
    : collectives_(collectives), rank_(rank), size_(size) {}

void SparseAllReduce::exchange(std::span<SparseSlot> slots, int leader,
                               const WaitContext& context) {
  lay_out(slots);
  sweep(slots, rank_ == leader);
  broadcast_offsets(leader, context);
  gather(slots);
  reduce_values(slots.size(), context);
}

// Offset 0 is valid in every chunk.
void SparseAllReduce::exchange_nothing(std::span<const SparseSlot> slots, int leader,
                                       const WaitContext& context) {
  lay_out(slots);
  std::fill_n(wire_.begin(), places_.back().wire, std::byte{});
  std::fill_n(values_.begin(), index(places_.back().selected) + slots.size(), 0.0f);
  broadcast_offsets(leader, context);
  reduce_values(slots.size(), context);
}

void SparseAllReduce::broadcast_offsets(int leader, const WaitContext& context) {
  SCALECOM_ASSERT(leader >= 0 && leader < size_,
                  fmt::format("leader {} of {} ranks", leader, size_));
  collectives_.broadcast(std::span(wire_).first(index(places_.back().wire)), leader, context);
}

void SparseAllReduce::reduce_values(std::size_t slots, const WaitContext& context) {
  const std::size_t reduced = index(places_.back().selected) + slots;
  collectives_.all_reduce(std::as_writable_bytes(std::span(values_).first(reduced)),
                          DataType::float32, ReduceOp::sum, context);
}

void SparseAllReduce::take_back(std::span<const SparseSlot> slots) {
  for (std::size_t i = 0; i < slots.size(); ++i) take_back(slots[i], places_[i]);
}

void SparseAllReduce::take_back(const SparseSlot& slot, const Place& place) const {
  kernels::restore_selected(slot.residual, slot.count, slot.rate, selected_.data() + place.selected,
                            kept_.data() + place.selected);
  kernels::undo_sweep(slot.residual, gradient_of(slot), beta_of(slot));
}

// The buffers never shrink, so that a batch after the first of its size allocates nothing.
void SparseAllReduce::lay_out(std::span<const SparseSlot> slots) {
  places_.clear();
  Place place;
  for (const SparseSlot& slot : slots) {
    SCALECOM_ASSERT(slot.rate >= 1 && slot.rate <= kRateMax,
                    fmt::format("{}: rate {}", slot.name, slot.rate));
    places_.push_back(place);
    place.selected += selected_count(slot.count, slot.rate);
    place.wire += encoded_bytes(slot.count, slot.rate);
  }
  places_.push_back(place);
  const std::size_t reduced = index(place.selected) + slots.size();
  if (wire_.size() < index(place.wire)) wire_.resize(index(place.wire));
  if (values_.size() < reduced) {
    values_.resize(reduced);
    kept_.resize(reduced);
    selected_.resize(reduced);
  }
}

void SparseAllReduce::sweep(std::span<SparseSlot> slots, bool is_leader) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    SparseSlot& slot = slots[i];
    if (!is_leader) {
      slot.nonfinite_count = kernels::sweep(slot.residual, gradient_of(slot), beta_of(slot));
      continue;
    }
    const Place& begin = places_[i];
    const Place& end = places_[i + 1];
    const auto offsets =
        std::span(selected_).subspan(index(begin.selected), index(end.selected - begin.selected));
    slot.nonfinite_count = kernels::sweep_and_select(slot.residual, gradient_of(slot),
                                                     beta_of(slot), slot.rate, offsets.data());
    encode_offsets(offsets, slot.rate,
                   std::span(wire_).subspan(index(begin.wire), index(end.wire - begin.wire)));
  }
}

void SparseAllReduce::gather(std::span<const SparseSlot> slots) {
  float* const flags = values_.data() + places_.back().selected;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const SparseSlot& slot = slots[i];
    const Place& begin = places_[i];
    const Place& end = places_[i + 1];
    const auto offsets =
        std::span(selected_).subspan(index(begin.selected), index(end.selected - begin.selected));
    decode_offsets(std::span(wire_).subspan(index(begin.wire), index(end.wire - begin.wire)),
                   slot.count, slot.rate, offsets);
    kernels::gather_selected(slot.residual, gradient_of(slot), beta_of(slot), slot.rate,
                             offsets.data(), values_.data() + begin.selected,
                             kept_.data() + begin.selected);
    flags[i] = slot.nonfinite_count > 0 ? 1.0f : 0.0f;
  }
}

void SparseAllReduce::deliver(std::span<SparseSlot> slots, const WaitContext& context) {
  const float* const flags = values_.data() + places_.back().selected;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    SparseSlot& slot = slots[i];
    const Place& place = places_[i];
    slot.went_dense = flags[i] != 0.0f;
    if (slot.went_dense) {
      reduce_dense(slot, place, context);
      continue;
    }
    float* const values = values_.data() + place.selected;
    const auto bytes = reinterpret_cast<std::byte*>(values);
    kernels::scale_copy(bytes, bytes, places_[i + 1].selected - place.selected, DataType::float32,
                        slot.result_scale);
    kernels::fill_selected(slot.result, slot.dtype, slot.count, slot.rate,
                           selected_.data() + place.selected, values);
  }
}

// The flags are reduced, so every rank comes here for the same tensors in the same order. The
// memory goes back first: the result may take the gradient's place.
void SparseAllReduce::reduce_dense(SparseSlot& slot, const Place& place,
                                   const WaitContext& context) {
  take_back(slot, place);
  kernels::scale_copy(slot.result, slot.gradient, slot.count, slot.dtype, {slot.prescale, 1.0});
  collectives_.all_reduce({slot.result, index(slot.count * size_of(slot.dtype))}, slot.dtype,
                          ReduceOp::sum, context);
  kernels::scale_copy(slot.result, slot.result, slot.count, slot.dtype, slot.result_scale);
}

}  // namespace scalecom
