#include "collective/device/device_all_reduce.hpp"

#include <algorithm>

namespace scalecom {
namespace {

// Where pieces begin in the buffer: passes and NCCL then move whole vectors.
constexpr std::int64_t kSlotBytes = 16;

std::int64_t slot_elements(std::int64_t count, std::int64_t element_bytes) {
  const std::int64_t elements = kSlotBytes / element_bytes;
  return (count + elements - 1) / elements * elements;
}

}  // namespace

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
  const std::int64_t element = size_of(dtype_);
  for (const auto& [piece, owed, limit] : pieces_) count_ += slot_elements(piece.count, element);
  data_ = lane_.acquire(DeviceLane::Buffer::packed, static_cast<std::size_t>(count_ * element));
  std::vector<CopyTensor> in;
  std::vector<CopyTensor> out;
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
    slot += slot_elements(piece.count, element) * element;
  }
  if (!in.empty()) lane_.assign(DeviceLane::Copy::in, in).scale_copy(lane_.passes());
  if (!owing.empty()) take_owed_along(owing);
  lane_.assign(DeviceLane::Copy::out, out);
}

// A compressed step whose chunks have one element sends everything.
void DeviceAllReduce::take_owed_along(std::span<const StepTensor> owing) {
  std::int64_t most = 0;
  for (const StepTensor& row : owing) most = std::max(most, row.gradient.count);
  const auto count = static_cast<std::size_t>(most);
  using Buffer = DeviceLane::Buffer;
  const auto offsets = reinterpret_cast<std::uint16_t*>(
      lane_.acquire(Buffer::offsets, count * sizeof(std::uint16_t)));
  const auto kept = reinterpret_cast<float*>(lane_.acquire(Buffer::kept, count * sizeof(float)));
  const auto nonfinite =
      reinterpret_cast<std::int64_t*>(lane_.acquire(Buffer::counts, sizeof(std::int64_t)));
  lane_.accelerator().set_zero(offsets, count * sizeof(std::uint16_t), lane_.passes());
  std::vector<StepTensor> rows(owing.begin(), owing.end());
  for (StepTensor& row : rows) {
    row.offsets = offsets;
    row.selected.kept = kept;  // Nobody takes this step back.
    row.nonfinite = nonfinite;
  }
  lane_.assign(DeviceLane::Step::gather, rows).gather_and_sweep(lane_.passes());
}

}  // namespace scalecom
