#include "kernels/cuda/step.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.hpp"
#include "device/cuda/error.hpp"
#include "kernels/cuda/layout.hpp"

namespace scalecom::kernels::cuda {
namespace {

using device::cuda::StreamHandle;

ElementFormat format_of(DataType dtype) {
  switch (dtype) {
    case DataType::float16: return ElementFormat::float16;
    case DataType::bfloat16: return ElementFormat::bfloat16;
    default: break;
  }
  SCALECOM_ASSERT(dtype == DataType::float32, fmt::format("a step of {}", to_string(dtype)));
  return ElementFormat::float32;
}

bool is_aligned(const void* pointer, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

void check(const StepTensor& tensor) {
  const Gradient& gradient = tensor.gradient;
  SCALECOM_ASSERT(tensor.chunk >= 1 && tensor.chunk <= 65536,
                  fmt::format("chunk length {}", tensor.chunk));
  SCALECOM_ASSERT(gradient.count >= 0, fmt::format("{} elements", gradient.count));
  SCALECOM_ASSERT(is_aligned(gradient.data, size_of(gradient.dtype)) &&
                      is_aligned(tensor.result, size_of(gradient.dtype)) &&
                      is_aligned(tensor.memory, sizeof(float)) &&
                      is_aligned(tensor.selected.values, size_of(tensor.selected.dtype)),
                  fmt::format("a tensor of {} {} that is not aligned to its elements",
                              gradient.count, to_string(gradient.dtype)));
}

bool is_for_warps(const StepTensor& tensor) { return tensor.chunk <= kWarpChunkMax; }

StepRow row_of(const StepTensor& tensor) {
  const auto chunk = static_cast<std::int32_t>(tensor.chunk);
  const auto team = is_for_warps(tensor) ? kWarpLanesLog2 : kBlockLanesLog2;
  StepRow row{};
  row.memory = tensor.memory;
  row.gradient = const_cast<std::byte*>(tensor.gradient.data);
  row.result = tensor.result;
  row.count = tensor.gradient.count;
  row.offsets = tensor.offsets;
  row.values = tensor.selected.values;
  row.kept = tensor.selected.kept;
  row.reduced = tensor.reduced;
  row.nonfinite = reinterpret_cast<unsigned long long*>(tensor.nonfinite);
  row.prescale = tensor.gradient.prescale;
  row.beta = tensor.beta;
  row.limit = tensor.selected.limit;
  row.chunk = chunk;
  row.format = format_of(tensor.gradient.dtype);
  row.value_format = format_of(tensor.selected.dtype);
  row.lanes_log2 = lanes_log2_for(chunk, team);
  return row;
}

std::size_t bytes_for(std::size_t tensors_max) {
  return tensors_max * sizeof(StepRow) + 4 * index_bytes(tensors_max);
}

std::int64_t quotient_up(std::int64_t dividend, std::int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

}  // namespace

StepTable::StepTable(std::size_t tensors_max)
    : storage_(bytes_for(tensors_max)), tensors_max_(tensors_max) {}

void StepTable::assign(std::span<const StepTensor> tensors, StreamHandle stream) {
  SCALECOM_ASSERT(tensors.size() <= tensors_max_,
                  fmt::format("{} tensors in a table for {}", tensors.size(), tensors_max_));
  for (const StepTensor& tensor : tensors) check(tensor);
  storage_.clear();
  const std::span<StepRow> all = storage_.reserve<StepRow>(tensors.size());
  std::size_t used = 0;
  for (const bool for_warps : {true, false}) {  // each team's rows together
    for (const StepTensor& tensor : tensors) {
      if (tensor.gradient.count > 0 && is_for_warps(tensor) == for_warps) {
        all[used++] = row_of(tensor);
      }
    }
  }
  const std::span<StepRow> rows = all.first(used);
  const auto warps_end =
      std::find_if(rows.begin(), rows.end(), [](const auto& r) { return r.chunk > kWarpChunkMax; });
  const auto warp_rows = static_cast<std::size_t>(warps_end - rows.begin());
  std::vector<std::int64_t> units;
  const auto range = [&](std::size_t begin, std::size_t end, const auto& units_of_row) -> RowRange {
    units.clear();
    for (std::size_t i = begin; i < end; ++i) units.push_back(units_of_row(rows[i]));
    if (units.empty()) return {};
    return {storage_.on_device(all) + begin, make_index(storage_, units)};
  };
  by_warps_ = range(0, warp_rows, [](const StepRow& row) {
    return units_of(chunks_of(row.count, row.chunk), kWarpLanesLog2, row.lanes_log2);
  });
  by_blocks_ =
      range(warp_rows, used, [](const StepRow& row) { return chunks_of(row.count, row.chunk); });
  by_selected_ = range(0, used, [](const StepRow& row) {
    return quotient_up(chunks_of(row.count, row.chunk), kSelectedAUnit);
  });
  by_elements_ =
      range(0, used, [](const StepRow& row) { return quotient_up(row.count, kFilledAUnit); });
  storage_.upload(stream);
}

void StepTable::launch(Pass pass, StreamHandle stream) const {
  if (by_warps_.index.units > 0) {
    device::cuda::check(launch_by_warps(pass, by_warps_, stream), "launching a pass by warps");
  }
  if (by_blocks_.index.units > 0) {
    device::cuda::check(launch_by_blocks(pass, by_blocks_, stream), "launching a pass by blocks");
  }
}

void StepTable::launch(SelectedPass pass, StreamHandle stream) const {
  if (by_selected_.index.units == 0) return;
  device::cuda::check(launch_on_selected(pass, by_selected_, stream),
                      "launching a pass on selected elements");
}

void StepTable::select_and_sweep(GradientAfter gradient, StreamHandle stream) const {
  launch(gradient == GradientAfter::zero ? Pass::select_and_zero : Pass::select, stream);
}

void StepTable::gather_and_sweep(GradientAfter gradient, StreamHandle stream) const {
  launch(gradient == GradientAfter::zero ? Pass::gather_and_zero : Pass::gather, stream);
}

void StepTable::restore_selected(StreamHandle stream) const {
  launch(SelectedPass::restore, stream);
}
void StepTable::undo_sweep(StreamHandle stream) const { launch(Pass::undo, stream); }
void StepTable::fill_selected(StreamHandle stream) const {
  if (by_elements_.index.units == 0) return;
  device::cuda::check(launch_fill(by_elements_, stream), "launching fill_selected");
}
void StepTable::scatter_selected(StreamHandle stream) const {
  launch(SelectedPass::scatter, stream);
}

void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count,
           StreamHandle stream) {
  if (count == 0) return;
  device::cuda::check(launch_widen(values, source, format_of(dtype), count, stream),
                      "launching widen");
}

}  // namespace scalecom::kernels::cuda
