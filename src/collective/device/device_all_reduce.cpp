#include "collective/device/device_all_reduce.hpp"

#include <algorithm>

namespace scalecom {
DeviceOperation::Collective DeviceAllReduce::step() {
  if (steps_++ > 0) {
    lane_.return_from_wire();
    if (!owing_.empty()) settle_owed();
    if (!is_in_place_) lane_.table(DeviceLane::Copy::out).scale_copy(lane_.passes());
    return {};
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
  return [this](const WaitContext& context) {
    lane_.go_to_wire();
    lane_.collectives().all_reduce(data_, count_, dtype_, op_, DeviceCollectives::Span::all,
                                   lane_.wire(), context);
  };
}

void DeviceAllReduce::pack() {
  const auto bytes_of = [this](const Piece& piece) { return piece.count * size_of(dtype_); };
  std::int64_t bytes = 0;
  for (const auto& [piece, owed, void_mark, limit] : pieces_)
    bytes += DeviceLane::slot_bytes(bytes_of(piece));
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
  for (const auto& [piece, owed, void_mark, limit] : pieces_) {
    if (owed == nullptr) {
      in.push_back({slot, piece.input, piece.count, dtype_, piece.before});
    } else {
      StepTensor& row = owing.emplace_back();
      row.residual = owed;
      row.gradient = {piece.input, dtype_, piece.count, static_cast<float>(piece.before.multiply)};
      row.selected.values = slot;
      row.selected.dtype = dtype_;
      row.selected.limit = limit;
      // Scaled in its place, before it is looked at whether the step was void.
      if (!piece.after.is_identity()) {
        settled_.push_back({slot, slot, piece.count, dtype_, piece.after});
      }
    }
    out.push_back({piece.output, slot, piece.count, dtype_,
                   owed == nullptr ? piece.after : kernels::Scale{}});
    slot += DeviceLane::slot_bytes(bytes_of(piece));
  }
  if (!in.empty()) lane_.assign(DeviceLane::Copy::in, in).scale_copy(lane_.passes());
  if (!owing.empty()) take_owed_along(owing);
  if (!settled_.empty()) lane_.assign(DeviceLane::Copy::settled, settled_);
  lane_.assign(DeviceLane::Copy::out, out);
}

// A compressed step whose chunks have one element sends everything.
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
  marks_ = lane_.acquire<float>(Buffer::reduced, owing.size());
  lane_.accelerator().set_zero(offsets, most * sizeof *offsets, lane_.passes());
  owing_.assign(owing.begin(), owing.end());
  for (std::size_t i = 0; i < owing_.size(); ++i) {
    owing_[i].offsets = offsets;
    owing_[i].selected.kept = kept;
    owing_[i].nonfinite = counts + i;
    owing_[i].mark = marks_ + i;
    kept += owing_[i].gradient.count;
  }
  lane_.assign(owing_).gather_and_sweep(lane_.passes());
}

// Each piece's values are its result, in their place. An output may be the input, so that this
// comes before the results are there.
void DeviceAllReduce::settle_owed() {
  Accelerator& accelerator = lane_.accelerator();
  if (!settled_.empty()) lane_.table(DeviceLane::Copy::settled).scale_copy(lane_.passes());
  std::int64_t* const counts = owing_.front().nonfinite;
  accelerator.set_zero(counts, owing_.size() * sizeof *counts, lane_.passes());
  for (const StepTensor& row : owing_) {
    accelerator.count_nonfinite(row.nonfinite, row.selected.values, dtype_, row.gradient.count,
                                lane_.passes());
  }
  accelerator.mark(reinterpret_cast<std::byte*>(marks_), DataType::float32, counts,
                   static_cast<std::int64_t>(owing_.size()), lane_.passes());
  lane_.steps().take_back(lane_.passes());
  const float* mark = marks_;
  for (const DevicePiece& piece : pieces_) {
    if (piece.owed == nullptr) continue;
    if (piece.void_mark != nullptr) {
      accelerator.copy(piece.void_mark, mark, sizeof *mark, lane_.passes());
    }
    ++mark;
  }
}

}  // namespace scalecom
