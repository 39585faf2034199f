#include "sparse/device_sparse_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "compress/offset_codec.hpp"
#include "sparse/parts.hpp"
#include "sparse/value_limit.hpp"

namespace scalecom {
namespace {

using Buffer = DeviceLane::Buffer;

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

// But for the names.
bool are_same(const SparseSlot& a, const SparseSlot& b) {
  return a.gradient == b.gradient && a.result == b.result && a.residual == b.residual &&
         a.count == b.count && a.dtype == b.dtype && a.rate == b.rate && a.beta == b.beta &&
         a.prescale == b.prescale && a.result_scale == b.result_scale;
}

}  // namespace

DeviceSparseLayout::DeviceSparseLayout(DeviceLane& lane, std::span<const SparseSlot> slots,
                                       const SparsePlan& plan)
    : lane_(lane),
      size_(lane.collectives().size()),
      slots_(slots.begin(), slots.end()),
      mode_(plan.mode),
      values_(plan.values),
      has_averages_(plan.mode == CompressionMode::hierarchical &&
                    lane.collectives().host_size() > 1),
      tensors_{0},
      chunks_{0} {
  for (SparseSlot& slot : slots_) {
    SCALECOM_ASSERT(slot.rate >= 1 && slot.rate <= kRateMax,
                    fmt::format("{}: rate {}", slot.name, slot.rate));
    elements_ += slot.count;
    offset_bytes_ = std::max(offset_bytes_, scalecom::offset_bytes(slot.rate));
    slot.name = {};  // The caller's.
  }
  const std::int64_t shards = plan.mode == CompressionMode::cyclic ? 1 : size_;
  for (std::int64_t shard = 0; shard < shards; ++shard) {
    chunks_.push_back(chunks_.back());
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) add_part(slot, shard, shards);
    tensors_.push_back(parts_.size());
  }
}

bool DeviceSparseLayout::is_of(std::span<const SparseSlot> slots, const SparsePlan& plan) const {
  return mode_ == plan.mode && values_ == plan.values &&
         std::ranges::equal(slots, slots_,
                            [](const auto& a, const auto& b) { return are_same(a, b); });
}

// A chunk belongs to the shard that its first element is in.
void DeviceSparseLayout::add_part(std::size_t slot, std::int64_t shard, std::int64_t shards) {
  const std::int64_t count = slots_[slot].count;
  const std::int64_t rate = slots_[slot].rate;
  const std::int64_t from = selected_count(part_start(count, shard, shards), rate);
  const std::int64_t to = selected_count(part_start(count, shard + 1, shards), rate);
  if (from == to) return;
  const std::int64_t first = from * rate;
  parts_.push_back({slot, first, std::min(to * rate, count) - first, chunks_.back(), to - from});
  chunks_.back() += to - from;
}

TensorRange DeviceSparseLayout::tensors_of(std::int64_t shard) const {
  return {tensors_[index(shard)], tensors_[index(shard) + 1]};
}

std::int64_t DeviceSparseLayout::chunks_before(std::int64_t shard) const {
  return chunks_[index(shard)];
}

void DeviceSparseLayout::take_tables(DeviceSparseLayout& former) {
  steps_ = std::move(former.steps_);
  results_ = std::move(former.results_);
  scaling_ = std::move(former.scaling_);
}

void DeviceSparseLayout::prepare() {
  const Buffers buffers = acquire_buffers();
  if (buffers == buffers_) return;
  buffers_ = buffers;
  try {
    write_tables();
  } catch (...) {
    buffers_ = {};  // What the tables know is unknown.
    throw;
  }
}

DeviceSparseLayout::Buffers DeviceSparseLayout::acquire_buffers() {
  const std::size_t selected = index(chunks());
  const std::size_t sent = selected + slots_.size();  // Values and marks.
  const bool needs_wire = size_ > 1 && (offset_bytes_ == 1 || shards() > 1);
  Buffers buffers;
  buffers.offsets = lane_.acquire<std::uint16_t>(Buffer::offsets, selected);
  if (needs_wire) buffers.wire = lane_.acquire(Buffer::wire, selected * index(offset_bytes_));
  buffers.values = lane_.acquire(Buffer::values, sent * index(size_of(values_)));
  buffers.kept = lane_.acquire<float>(Buffer::kept, selected);
  buffers.reduced = values_ == DataType::float32 ? reinterpret_cast<float*>(buffers.values)
                                                 : lane_.acquire<float>(Buffer::reduced, sent);
  buffers.counts = lane_.acquire<std::int64_t>(Buffer::counts, slots_.size());
  if (has_averages_) buffers.averages = lane_.acquire<float>(Buffer::averages, index(elements_));
  return buffers;
}

StepTensor DeviceSparseLayout::row_of(const Part& part) const {
  const SparseSlot& slot = swept_[part.slot];
  StepTensor row;
  row.residual = slot.residual + part.first;
  row.gradient = {slot.gradient + part.first * size_of(slot.dtype), slot.dtype, part.count,
                  static_cast<float>(slot.prescale)};
  row.beta = static_cast<float>(slot.beta);
  row.chunk = slot.rate;
  row.offsets = buffers_.offsets + part.begin;
  row.selected = {buffers_.values + part.begin * size_of(values_), values_,
                  value_limit(values_, size_), buffers_.kept + part.begin};
  row.nonfinite = buffers_.counts + part.slot;
  row.result = slot.result + part.first * size_of(slots_[part.slot].dtype);
  row.reduced = buffers_.reduced + part.begin;
  row.mark = buffers_.reduced + chunks() + static_cast<std::int64_t>(part.slot);
  return row;
}

void DeviceSparseLayout::write_tables() {
  swept_ = slots_;
  float* average = buffers_.averages;
  for (SparseSlot& slot : swept_) {
    if (!has_averages_) break;
    slot.gradient = reinterpret_cast<const std::byte*>(average);
    slot.dtype = DataType::float32;
    average += slot.count;
  }
  std::vector<StepTensor> rows;
  std::vector<StepTensor> results;
  for (const Part& part : parts_) {
    StepTensor& row = rows.emplace_back(row_of(part));
    if (!has_averages_) continue;
    StepTensor& result = results.emplace_back(row);
    result.gradient = {nullptr, slots_[part.slot].dtype, part.count, 1.0f};
    result.residual = nullptr;  // The step is the average's to take back.
    row.result = nullptr;       // Its dtype need not be the average's.
  }
  steps_.assign(lane_.table_place(), std::span<const StepTensor>(rows));
  if (has_averages_) results_.assign(lane_.table_place(), std::span<const StepTensor>(results));
  write_scaling();
}

void DeviceSparseLayout::write_scaling() {
  std::vector<CopyTensor> scaled;
  for (const Part& part : parts_) {
    const kernels::Scale& scale = slots_[part.slot].result_scale;
    const auto values = reinterpret_cast<std::byte*>(buffers_.reduced + part.begin);
    if (!scaled.empty() && scaled.back().scale == scale) {
      scaled.back().count += part.chunks;
    } else {
      scaled.push_back({values, values, part.chunks, DataType::float32, scale});
    }
  }
  is_scaled_ = std::ranges::any_of(
      scaled, [](const CopyTensor& tensor) { return !tensor.scale.is_identity(); });
  if (!is_scaled_) return;
  scaling_.assign(lane_.table_place(), std::span<const CopyTensor>(scaled));
}

DeviceSparseLayout& DeviceSparseLayouts::find(std::span<const SparseSlot> slots,
                                              const SparsePlan& plan) {
  auto found = std::ranges::find_if(layouts_,
                                    [&](const auto& layout) { return layout->is_of(slots, plan); });
  if (found == layouts_.end()) {
    auto added = std::make_unique<DeviceSparseLayout>(lane_, slots, plan);
    std::size_t parts = added->parts().size();
    for (const auto& layout : layouts_) parts += layout->parts().size();
    // Those that are longest out of use. Where gradients are elsewhere in every step, each batch
    // comes here: memory for its tables would take as long as to write them.
    while (!layouts_.empty() && (layouts_.size() >= kLayoutsMax || parts > kPartsMax)) {
      parts -= layouts_.back()->parts().size();
      added->take_tables(*layouts_.back());
      layouts_.pop_back();
    }
    layouts_.push_back(std::move(added));
    found = layouts_.end() - 1;
  }
  std::rotate(layouts_.begin(), found, found + 1);
  layouts_.front()->prepare();
  return *layouts_.front();
}

}  // namespace scalecom
