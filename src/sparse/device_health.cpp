#include "sparse/device_health.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace scalecom {
namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace

std::size_t DeviceHealthSample::marks_begin() const {
  const std::size_t end = offsets_begin() + chunks_ * sizeof(std::uint16_t);
  return (end + sizeof(float) - 1) / sizeof(float) * sizeof(float);
}

void DeviceHealthSample::lay_out(std::span<const SparseSlot> slots) {
  tensors_.clear();
  values_ = chunks_ = 0;
  for (const Wanted& wanted : wanted_) {
    const SparseSlot& slot = slots[wanted.slot];
    Tensor& tensor = tensors_.emplace_back();
    tensor.chunks = sampled_chunks(slot.count, slot.rate, wanted.step);
    tensor.first_chunk = chunks_;
    tensor.begin = values_;
    tensor.chunk = index(slot.rate);
    if (tensor.chunks.empty()) continue;
    const std::int64_t last = tensor.chunks.back() * slot.rate;
    tensor.elements =
        (tensor.chunks.size() - 1) * tensor.chunk + index(std::min(slot.rate, slot.count - last));
    chunks_ += tensor.chunks.size();
    values_ += tensor.elements + 2;
  }
}

std::vector<SampledChunk> DeviceHealthSample::find_chunks(std::span<const SparseSlot> slots,
                                                          std::span<const Part> parts) const {
  std::vector<const Tensor*> tensor_of(slots.size(), nullptr);
  for (std::size_t i = 0; i < wanted_.size(); ++i) tensor_of[wanted_[i].slot] = &tensors_[i];
  std::vector<SampledChunk> found(chunks_);
  for (const Part& part : parts) {
    const Tensor* const tensor = tensor_of[part.slot];
    if (tensor == nullptr) continue;
    const SparseSlot& slot = slots[part.slot];
    const auto begin = std::ranges::lower_bound(tensor->chunks, part.first);
    const auto end = std::ranges::lower_bound(tensor->chunks, part.first + part.chunks);
    for (auto chunk = begin; chunk != end; ++chunk) {
      const auto place = tensor->first_chunk + index(chunk - tensor->chunks.begin());
      found[place] = {slot.residual + *chunk * slot.rate,
                      slot.gradient + *chunk * slot.rate * size_of(slot.dtype),
                      part.offsets + (*chunk - part.first), part.kept + (*chunk - part.first)};
    }
  }
  return found;
}

void DeviceHealthSample::acquire(DeviceLane& lane, std::span<const SparseSlot> slots,
                                 std::size_t marks) {
  lay_out(slots);
  marks_ = marks;
  block_ = lane.acquire(DeviceLane::Buffer::sample, marks_begin());
  pinned_ = pool_.allocate(marks_begin() + marks * sizeof(float), lane.passes());
  lane.reserve_samples(tensors_.size(), chunks_);
}

void DeviceHealthSample::look(DeviceLane& lane, std::span<const SparseSlot> slots,
                              std::span<const Part> parts) {
  const std::vector<SampledChunk> chunks = find_chunks(slots, parts);
  auto* const values = reinterpret_cast<float*>(block_);
  auto* const figures = reinterpret_cast<float*>(block_ + figures_begin());
  auto* const offsets = reinterpret_cast<std::uint16_t*>(block_ + offsets_begin());
  std::vector<SampledTensor> rows;
  for (std::size_t i = 0; i < wanted_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (tensor.elements == 0) continue;
    const SparseSlot& slot = slots[wanted_[i].slot];
    rows.push_back({slot.dtype, static_cast<float>(slot.prescale), static_cast<float>(slot.beta),
                    slot.rate, static_cast<std::int64_t>(tensor.elements),
                    std::span(chunks).subspan(tensor.first_chunk, tensor.chunks.size()),
                    values + tensor.begin, figures + 2 * i, offsets + tensor.first_chunk});
  }
  lane.assign(rows).look(lane.passes());
}

void DeviceHealthSample::sum(DeviceLane& lane, const WaitContext& context) {
  if (values_ == 0) return;
  lane.collectives().all_reduce(block_, static_cast<std::int64_t>(values_), DataType::float32,
                                ReduceOp::sum, DeviceCollectives::Span::all, lane.wire(), context);
}

void DeviceHealthSample::fetch(DeviceLane& lane, const float* marks) {
  Accelerator& accelerator = pool_.accelerator();
  accelerator.copy(pinned_.get(), block_, marks_begin(), lane.passes());
  accelerator.copy(pinned_.get() + marks_begin(), marks, marks_ * sizeof(float), lane.passes());
}

std::vector<std::optional<TensorHealth>> DeviceHealthSample::health(int size) {
  std::vector<std::optional<TensorHealth>> all;
  const auto* const marks = pinned<float>(marks_begin());
  for (std::size_t i = 0; i < wanted_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    auto& health = all.emplace_back();
    if (!(marks[wanted_[i].slot] == 0.0f)) continue;
    health.emplace();
    if (tensor.elements == 0) continue;
    LookedAt looked;
    const auto* const figures = pinned<float>(figures_begin()) + 2 * i;
    looked.health.sampled_chunks = static_cast<std::int64_t>(tensor.chunks.size());
    looked.health.sampled_elements = static_cast<std::int64_t>(tensor.elements);
    looked.health.relative_error = static_cast<double>(figures[0]);
    looked.health.residual_to_gradient = static_cast<double>(figures[1]);
    looked.chunk = tensor.chunk;
    const auto* const offsets = pinned<std::uint16_t>(offsets_begin()) + tensor.first_chunk;
    looked.offsets.assign(offsets, offsets + tensor.chunks.size());
    const std::span<const float> sums(pinned<float>(0) + tensor.begin, tensor.elements + 2);
    *health = health_from_sums(looked, sums, size);
  }
  pinned_.reset();
  return all;
}

}  // namespace scalecom
