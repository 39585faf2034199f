#include "collective/device/device_all_reduce.hpp"

#include <algorithm>

namespace scalecom {
bool DeviceAllReduce::step(const WaitContext& context) {
  if (steps_++ > 0) {
    lane_.return_from_wire();
    if (!is_in_place_) lane_.table(DeviceLane::Copy::out).scale_copy(lane_.passes());
    return false;
  }
  const Piece& first = pieces_.front().piece;
  is_in_place_ = pieces_.size() == 1 && pieces_.front().owed == nullptr &&
                 first.before.is_identity() && first.after.is_identity();
  if (!is_in_place_) {
    pack();
  } else {
    data_ = first.output;
    count_ = first.count;
    if (first.input != first.output) {
      const auto bytes = static_cast<std::size_t>(count_ * size_of(dtype_));
      lane_.accelerator().copy(data_, first.input, bytes, lane_.passes());
    }
  }
  lane_.go_to_wire();
  lane_.collectives().all_reduce(data_, count_, dtype_, op_, DeviceCollectives::Span::all,
                                 lane_.wire(), context);
  return true;
}

void DeviceAllReduce::pack() {
  const auto bytes_of = [this](const Piece& piece) { return piece.count * size_of(dtype_); };
  std::int64_t bytes = 0;
  for (const auto& [piece, owed, limit] : pieces_) bytes += DeviceLane::slot_bytes(bytes_of(piece));
  data_ = lane_.acquire(DeviceLane::Buffer::packed, static_cast<std::size_t>(bytes));
  // Nothing behind the last: whether a piece alone is packed, as it owes, is each rank's own
  // affair.
  const std::int64_t last = bytes_of(pieces_.back().piece);
  count_ = (bytes - DeviceLane::slot_bytes(last) + last) / size_of(dtype_);
  std::vector<CopyTensor> in;
  std::vector<CopyTensor> out;
  in.reserve(pieces_.size());
  out.reserve(pieces_.size());
  std::vector<StepTensor> owing;
  std::byte* slot = data_;
  for (const auto& [piece, owed, limit] : pieces_) {
    if (owed == nullptr) {
      in.push_back({slot, piece.input, piece.count, dtype_, piece.before});
    } else {
      StepTensor& row = owing.emplace_back();
      row.memory = owed;
      row.gradient = {piece.input, dtype_, piece.count, static_cast<float>(piece.before.multiply)};
      row.selected.values = slot;
      row.selected.dtype = dtype_;
      row.selected.limit = limit;
    }
    out.push_back({piece.output, slot, piece.count, dtype_, piece.after});
    slot += DeviceLane::slot_bytes(bytes_of(piece));
  }
  if (!in.empty()) lane_.assign(DeviceLane::Copy::in, in).scale_copy(lane_.passes());
  if (!owing.empty()) take_owed_along(owing);
  lane_.assign(DeviceLane::Copy::out, out);
}

// A compressed step whose chunks have one element sends everything. Where a sum is NaN or Inf, so
// is what is sent, and the step is taken back: that of float32 leaves nothing in any case.
void DeviceAllReduce::take_owed_along(std::span<const StepTensor> owing) {
  std::size_t most = 0;
  std::size_t all = 0;
  for (const StepTensor& row : owing) {
    const auto count = static_cast<std::size_t>(row.gradient.count);
    most = std::max(most, count);
    all += count;
  }
  using Buffer = DeviceLane::Buffer;
  auto* const offsets = lane_.acquire<std::uint16_t>(Buffer::offsets, most);
  auto* kept = lane_.acquire<float>(Buffer::kept, all);
  auto* const counts = lane_.acquire<std::int64_t>(Buffer::counts, owing.size());
  auto* const marks = lane_.acquire<float>(Buffer::reduced, owing.size());
  Accelerator& accelerator = lane_.accelerator();
  accelerator.set_zero(offsets, most * sizeof *offsets, lane_.passes());
  accelerator.set_zero(counts, owing.size() * sizeof *counts, lane_.passes());
  std::vector<StepTensor> rows(owing.begin(), owing.end());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].offsets = offsets;
    rows[i].selected.kept = kept;
    rows[i].nonfinite = counts + i;
    rows[i].mark = marks + i;
    kept += rows[i].gradient.count;
  }
  const StepTable& table = lane_.assign(DeviceLane::Step::gather, rows);
  table.gather_and_sweep(lane_.passes());
  accelerator.mark(reinterpret_cast<std::byte*>(marks), DataType::float32, counts,
                   static_cast<std::int64_t>(rows.size()), lane_.passes());
  table.take_back(lane_.passes());
  for (const StepTensor& row : rows) {
    if (dtype_ != DataType::float32 || row.gradient.count == 0) continue;
    const auto bytes = static_cast<std::size_t>(row.gradient.count) * sizeof(float);
    accelerator.set_zero(row.memory, bytes, lane_.passes());
  }
}

}  // namespace scalecom
