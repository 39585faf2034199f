#include "sparse/device_sparse_all_reduce.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "compress/offset_codec.hpp"
#include "sparse/parts.hpp"
#include "sparse/value_limit.hpp"

namespace scalecom {
namespace {

using Buffer = DeviceLane::Buffer;

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace

DeviceSparseAllReduce::DeviceSparseAllReduce(DeviceLane& lane, std::vector<SparseSlot> slots,
                                             const SparsePlan& plan, DeviceHealthSample* sample)
    : lane_(lane),
      slots_(std::move(slots)),
      plan_(plan),
      sample_(sample),
      rank_(lane.collectives().rank()),
      size_(lane.collectives().size()) {
  lay_out();
  has_averages_ = plan.mode == CompressionMode::hierarchical && lane.collectives().host_size() > 1;
  acquire_buffers();
  if (has_averages_) actions_.push_back(Action::average);
  actions_.insert(actions_.end(), {Action::select, Action::gather});
  if (sample_ != nullptr && size_ > 1) actions_.push_back(Action::sum_sample);
  actions_.push_back(Action::fill);
}

bool DeviceSparseAllReduce::step(const WaitContext& context) {
  switch (actions_[action_]) {
    case Action::average: average(context); break;
    case Action::select: select(context); break;
    case Action::gather: gather(context); break;
    case Action::sum_sample: sample_->sum(lane_, context); break;
    case Action::fill: fill(); break;
  }
  return ++action_ < actions_.size();
}

void DeviceSparseAllReduce::lay_out() {
  for (const SparseSlot& slot : slots_) {
    SCALECOM_ASSERT(slot.rate >= 1 && slot.rate <= kRateMax,
                    fmt::format("{}: rate {}", slot.name, slot.rate));
    result_dtypes_.push_back(slot.dtype);
    elements_ += slot.count;
    offset_bytes_ = std::max(offset_bytes_, offset_bytes(slot.rate));
  }
  const bool is_sharded = plan_.mode != CompressionMode::cyclic;
  for (int leader = 0; leader < size_; ++leader) {
    const std::int64_t before = chunks_;
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
      if (is_sharded) {
        add_part(slot, (leader + plan_.leader) % size_, size_, leader);
      } else if (leader == plan_.leader) {
        add_part(slot, 0, 1, leader);
      }
    }
    wire_bytes_.push_back((chunks_ - before) * offset_bytes_);
  }
}

// A chunk belongs to the shard that its first element is in.
void DeviceSparseAllReduce::add_part(std::size_t slot, int shard, int shards, int leader) {
  const std::int64_t count = slots_[slot].count;
  const std::int64_t rate = slots_[slot].rate;
  const std::int64_t from = selected_count(part_start(count, shard, shards), rate);
  const std::int64_t to = selected_count(part_start(count, shard + 1, shards), rate);
  if (from == to) return;
  const std::int64_t first = from * rate;
  parts_.push_back({slot, leader, first, std::min(to * rate, count) - first, chunks_, to - from});
  chunks_ += to - from;
}

void DeviceSparseAllReduce::acquire_buffers() {
  const std::size_t chunks = index(chunks_);
  const std::size_t sent = chunks + slots_.size();  // Values and marks.
  offsets_ = lane_.acquire<std::uint16_t>(Buffer::offsets, chunks);
  wire_ = offset_bytes_ == 1 ? lane_.acquire(Buffer::wire, chunks)
                             : reinterpret_cast<std::byte*>(offsets_);
  values_ = lane_.acquire(Buffer::values, sent * index(size_of(plan_.values)));
  kept_ = lane_.acquire<float>(Buffer::kept, chunks);
  reduced_ = plan_.values == DataType::float32 ? reinterpret_cast<float*>(values_)
                                               : lane_.acquire<float>(Buffer::reduced, sent);
  counts_ = lane_.acquire<std::int64_t>(Buffer::counts, slots_.size());
  if (has_averages_) averages_ = lane_.acquire<float>(Buffer::averages, index(elements_));
}

// In float32, so that no rounding of an average is lost where gradients have 16 bits.
void DeviceSparseAllReduce::average(const WaitContext& context) {
  std::vector<CopyTensor> in;
  float* place = averages_;
  for (SparseSlot& slot : slots_) {
    const auto bytes = reinterpret_cast<std::byte*>(place);
    if (slot.dtype == DataType::float32) {
      in.push_back({bytes, slot.gradient, slot.count, slot.dtype, {}});
    } else {
      lane_.accelerator().widen(place, slot.gradient, slot.dtype, slot.count, lane_.passes());
    }
    slot.gradient = bytes;
    slot.dtype = DataType::float32;
    place += slot.count;
  }
  if (!in.empty()) lane_.assign(DeviceLane::Copy::in, in).scale_copy(lane_.passes());
  lane_.go_to_wire();
  lane_.collectives().all_reduce(reinterpret_cast<std::byte*>(averages_), elements_,
                                 DataType::float32, ReduceOp::sum, DeviceCollectives::Span::host,
                                 lane_.wire(), context);
}

void DeviceSparseAllReduce::scale_averages() {
  lane_.return_from_wire();
  const auto bytes = reinterpret_cast<std::byte*>(averages_);
  const auto ranks = static_cast<double>(lane_.collectives().host_size());
  const CopyTensor all{bytes, bytes, elements_, DataType::float32, {1.0, ranks}};
  lane_.assign(DeviceLane::Copy::out, {&all, 1}).scale_copy(lane_.passes());
}

StepTensor DeviceSparseAllReduce::row_of(const Part& part) const {
  const SparseSlot& slot = slots_[part.slot];
  StepTensor row;
  row.memory = slot.residual + part.first;
  row.gradient = {slot.gradient + part.first * size_of(slot.dtype), slot.dtype, part.count,
                  static_cast<float>(slot.prescale)};
  row.beta = static_cast<float>(slot.beta);
  row.chunk = slot.rate;
  row.offsets = offsets_ + part.begin;
  row.selected = {values_ + part.begin * size_of(plan_.values), plan_.values,
                  value_limit(plan_.values, size_), kept_ + part.begin};
  row.nonfinite = counts_ + part.slot;
  row.result = slot.result + part.first * size_of(result_dtypes_[part.slot]);
  row.reduced = reduced_ + part.begin;
  row.mark = reduced_ + chunks_ + static_cast<std::int64_t>(part.slot);
  return row;
}

void DeviceSparseAllReduce::assign_tables() {
  std::vector<StepTensor> mine;
  std::vector<StepTensor> others;
  std::vector<StepTensor> results;
  for (const Part& part : parts_) {
    StepTensor& row = (part.leader == rank_ ? mine : others).emplace_back(row_of(part));
    if (!has_averages_) continue;
    StepTensor& result = results.emplace_back(row);
    result.gradient = {nullptr, result_dtypes_[part.slot], part.count, 1.0f};
    result.memory = nullptr;  // The step is the average's to take back.
    row.result = nullptr;     // Its dtype need not be the average's.
  }
  lane_.assign(DeviceLane::Step::select, mine);
  lane_.assign(DeviceLane::Step::gather, others);
  if (has_averages_) lane_.assign(DeviceLane::Step::results, results);
}

void DeviceSparseAllReduce::select(const WaitContext& context) {
  if (has_averages_) scale_averages();
  Accelerator& accelerator = lane_.accelerator();
  accelerator.set_zero(counts_, slots_.size() * sizeof(std::int64_t), lane_.passes());
  assign_tables();
  lane_.table(DeviceLane::Step::select).select_and_sweep(lane_.passes());
  if (size_ == 1) return;
  if (offset_bytes_ == 1) {
    const auto from = std::reduce(wire_bytes_.begin(), wire_bytes_.begin() + rank_);
    accelerator.narrow_offsets(reinterpret_cast<std::uint8_t*>(wire_) + from, offsets_ + from,
                               wire_bytes_[index(rank_)], lane_.passes());
  }
  lane_.go_to_wire();
  lane_.collectives().all_gather(wire_, wire_bytes_, lane_.wire(), context);
}

void DeviceSparseAllReduce::gather(const WaitContext& context) {
  Accelerator& accelerator = lane_.accelerator();
  if (size_ > 1) {
    lane_.return_from_wire();
    if (offset_bytes_ == 1) {
      accelerator.widen_offsets(offsets_, reinterpret_cast<std::uint8_t*>(wire_), chunks_,
                                lane_.passes());
    }
    lane_.table(DeviceLane::Step::gather).gather_and_sweep(lane_.passes());
  }
  if (sample_ != nullptr) look_at_sample();
  const auto marks = static_cast<std::int64_t>(slots_.size());
  accelerator.mark(values_ + chunks_ * size_of(plan_.values), plan_.values, counts_, marks,
                   lane_.passes());
  if (size_ == 1) return;
  lane_.go_to_wire();
  lane_.collectives().all_reduce(values_, chunks_ + marks, plan_.values, ReduceOp::sum,
                                 DeviceCollectives::Span::all, lane_.wire(), context);
}

void DeviceSparseAllReduce::look_at_sample() {
  std::vector<DeviceHealthSample::Part> parts;
  for (const Part& part : parts_) {
    parts.push_back({part.slot, part.first / slots_[part.slot].rate, part.chunks,
                     offsets_ + part.begin, kept_ + part.begin});
  }
  sample_->look(lane_, slots_, parts);
}

void DeviceSparseAllReduce::fill() {
  Accelerator& accelerator = lane_.accelerator();
  if (size_ > 1) lane_.return_from_wire();
  if (plan_.values != DataType::float32) {
    accelerator.widen(reduced_, values_, plan_.values,
                      chunks_ + static_cast<std::int64_t>(slots_.size()), lane_.passes());
  }
  if (sample_ != nullptr) sample_->fetch(lane_, reduced_ + chunks_, slots_.size());
  std::vector<CopyTensor> scaled;
  for (const Part& part : parts_) {
    const kernels::Scale& scale = slots_[part.slot].result_scale;
    const auto values = reinterpret_cast<std::byte*>(reduced_ + part.begin);
    const bool goes_on = !scaled.empty() && scaled.back().scale.multiply == scale.multiply &&
                         scaled.back().scale.divide == scale.divide;
    if (goes_on) {
      scaled.back().count += part.chunks;
    } else {
      scaled.push_back({values, values, part.chunks, DataType::float32, scale});
    }
  }
  const bool is_scaled = std::ranges::any_of(
      scaled, [](const CopyTensor& tensor) { return !tensor.scale.is_identity(); });
  if (is_scaled) lane_.assign(DeviceLane::Copy::scale, scaled).scale_copy(lane_.passes());
  const StepTable& mine = lane_.table(DeviceLane::Step::select);
  const StepTable& others = lane_.table(DeviceLane::Step::gather);
  if (has_averages_) {
    mine.take_back(lane_.passes());
    others.take_back(lane_.passes());
    lane_.table(DeviceLane::Step::results).fill_selected(lane_.passes());
  } else {
    mine.fill_selected(lane_.passes());
    others.fill_selected(lane_.passes());
  }
}

}  // namespace scalecom
