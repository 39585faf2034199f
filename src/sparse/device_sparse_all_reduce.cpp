#include "sparse/device_sparse_all_reduce.hpp"

namespace scalecom {
namespace {

constexpr auto kNothingTravels = [](const WaitContext&) {};

}  // namespace

DeviceSparseAllReduce::DeviceSparseAllReduce(DeviceLane& lane, DeviceSparseLayouts& layouts,
                                             std::span<const SparseSlot> slots,
                                             const SparsePlan& plan, DeviceHealthSample* sample)
    : lane_(lane),
      layout_(layouts.find(slots, plan)),
      buffers_(layout_.buffers()),
      values_(plan.values),
      sample_(sample),
      rank_(lane.collectives().rank()),
      size_(lane.collectives().size()) {
  find_turn(plan);
  if (layout_.has_averages()) actions_.push_back(Action::average);
  actions_.insert(actions_.end(), {Action::select, Action::gather});
  if (sample_ != nullptr && size_ > 1) actions_.push_back(Action::sum_sample);
  actions_.push_back(Action::fill);
  if (sample_ != nullptr) {
    sample_->acquire(lane_, layout_.swept(), static_cast<std::size_t>(layout_.marks()));
  }
}

// Rank r leads the shard (r + leader) mod n; cyclic, the leader leads the only one.
void DeviceSparseAllReduce::find_turn(const SparsePlan& plan) {
  const std::int64_t shards = layout_.shards();
  const bool is_cyclic = plan.mode == CompressionMode::cyclic;
  const auto shard_of = [&](int rank) { return is_cyclic ? 0 : (rank + plan.leader) % shards; };
  const auto leads = [&](int rank) { return !is_cyclic || rank == plan.leader; };
  for (int rank = 0; rank < size_; ++rank) {
    const std::int64_t shard = shard_of(rank);
    const std::int64_t chunks =
        leads(rank) ? layout_.chunks_before(shard + 1) - layout_.chunks_before(shard) : 0;
    wire_bytes_.push_back(chunks * layout_.offset_bytes());
    if (rank != rank_ || !leads(rank)) continue;
    led_ = layout_.tensors_of(shard);
    led_begin_ = layout_.chunks_before(shard);
    led_chunks_ = chunks;
  }
  const std::int64_t before = layout_.chunks_before(shard_of(0));
  wire_begin_ = before == layout_.chunks() ? 0 : before;  // All from there on are empty.
  const bool is_in_place = layout_.offset_bytes() == 2 && wire_begin_ == 0;
  wire_ = is_in_place ? reinterpret_cast<std::byte*>(buffers_.offsets) : buffers_.wire;
}

DeviceOperation::Collective DeviceSparseAllReduce::step() {
  switch (actions_[action_++]) {
    case Action::average: return average();
    case Action::select: return select();
    case Action::gather: return gather();
    case Action::sum_sample:
      return [this](const WaitContext& context) { sample_->sum(lane_, context); };
    case Action::fill: fill(); break;
  }
  return {};
}

// In float32, so that no rounding of an average is lost where gradients have 16 bits.
DeviceOperation::Collective DeviceSparseAllReduce::average() {
  std::vector<CopyTensor> in;
  float* place = buffers_.averages;
  for (const SparseSlot& slot : layout_.slots()) {
    if (slot.dtype == DataType::float32) {
      in.push_back(
          {reinterpret_cast<std::byte*>(place), slot.gradient, slot.count, slot.dtype, {}});
    } else {
      lane_.accelerator().widen(place, slot.gradient, slot.dtype, slot.count, lane_.passes());
    }
    place += slot.count;
  }
  if (!in.empty()) lane_.assign(DeviceLane::Copy::in, in).scale_copy(lane_.passes());
  const auto sums = reinterpret_cast<std::byte*>(buffers_.averages);
  const auto ranks = static_cast<double>(lane_.collectives().host_size());
  const CopyTensor averages{sums, sums, layout_.elements(), DataType::float32, {1.0, ranks}};
  lane_.assign(DeviceLane::Copy::out, {&averages, 1});
  return [this](const WaitContext& context) {
    lane_.go_to_wire();
    lane_.collectives().all_reduce(reinterpret_cast<std::byte*>(buffers_.averages),
                                   layout_.elements(), DataType::float32, ReduceOp::sum,
                                   DeviceCollectives::Span::host, lane_.wire(), context);
  };
}

DeviceOperation::Collective DeviceSparseAllReduce::select() {
  if (layout_.has_averages()) {
    lane_.return_from_wire();
    lane_.table(DeviceLane::Copy::out).scale_copy(lane_.passes());
  }
  layout_.steps().select_and_sweep(lane_.passes(), led_);
  if (size_ == 1) return kNothingTravels;
  if (wire_ == buffers_.wire && led_chunks_ > 0) {
    const std::int64_t bytes = layout_.offset_bytes();
    const std::int64_t all = layout_.chunks();
    const std::int64_t place = (led_begin_ - wire_begin_ + all) % all;
    lane_.accelerator().pack_offsets(wire_ + place * bytes, bytes, buffers_.offsets + led_begin_,
                                     led_chunks_, lane_.passes());
  }
  return [this](const WaitContext& context) {
    lane_.go_to_wire();
    lane_.collectives().all_gather(wire_, wire_bytes_, lane_.wire(), context);
  };
}

DeviceOperation::Collective DeviceSparseAllReduce::gather() {
  Accelerator& accelerator = lane_.accelerator();
  if (size_ > 1) {
    lane_.return_from_wire();
    if (wire_ == buffers_.wire && led_chunks_ < layout_.chunks()) {
      accelerator.unpack_offsets(buffers_.offsets, wire_, layout_.offset_bytes(), layout_.chunks(),
                                 wire_begin_, lane_.passes());
    }
    layout_.steps().gather_and_sweep(lane_.passes(), led_);
  }
  if (sample_ != nullptr) look_at_sample();
  accelerator.mark(buffers_.values + layout_.chunks() * size_of(values_), values_, buffers_.counts,
                   layout_.marks(), lane_.passes());
  if (size_ == 1) return kNothingTravels;
  return [this](const WaitContext& context) {
    lane_.go_to_wire();
    lane_.collectives().all_reduce(buffers_.values, layout_.chunks() + layout_.marks(), values_,
                                   ReduceOp::sum, DeviceCollectives::Span::all, lane_.wire(),
                                   context);
  };
}

void DeviceSparseAllReduce::look_at_sample() {
  std::vector<DeviceHealthSample::Part> parts;
  for (const DeviceSparseLayout::Part& part : layout_.parts()) {
    parts.push_back({part.slot, part.first / layout_.slots()[part.slot].rate, part.chunks,
                     buffers_.offsets + part.begin, buffers_.kept + part.begin});
  }
  sample_->look(lane_, layout_.swept(), parts);
}

void DeviceSparseAllReduce::fill() {
  Accelerator& accelerator = lane_.accelerator();
  if (size_ > 1) lane_.return_from_wire();
  if (values_ != DataType::float32) {
    accelerator.widen(buffers_.reduced, buffers_.values, values_,
                      layout_.chunks() + layout_.marks(), lane_.passes());
  }
  if (sample_ != nullptr) sample_->fetch(lane_, buffers_.reduced + layout_.chunks());
  if (const CopyTable* scaling = layout_.scaling()) scaling->scale_copy(lane_.passes());
  if (layout_.has_averages()) {
    layout_.steps().take_back(lane_.passes());
    layout_.results().fill_selected(lane_.passes());
  } else {
    layout_.steps().fill_selected(lane_.passes());
  }
}

}  // namespace scalecom
