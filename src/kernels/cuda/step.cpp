#include "kernels/cuda/step.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "device/cuda/error.hpp"
#include "kernels/cuda/layout.hpp"

namespace scalecom::kernels::cuda {
namespace {

using device::cuda::StreamHandle;

constexpr int kWarpsABlock = 1 << (kBlockLanesLog2 - kWarpLanesLog2);

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

/// The range of `rows`, with units_of_row(row) units each; `first_units` has one place more.
template <class UnitsOfRow>
RowRange make_range(std::span<const StepRow> rows, const StepRow* rows_on_device,
                    std::span<std::int64_t> first_units, const std::int64_t* units_on_device,
                    const UnitsOfRow& units_of_row) {
  RowRange range{rows_on_device, units_on_device, static_cast<std::int32_t>(rows.size()), 0, 1};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    first_units[i] = range.units;
    range.units += units_of_row(rows[i]);
  }
  first_units[rows.size()] = range.units;
  return range;
}

std::size_t bytes_for(std::size_t tensors_max) {
  constexpr std::size_t kSlack = 64;  // alignment of the four parts
  return tensors_max * sizeof(StepRow) + (2 * tensors_max + 3) * sizeof(std::int64_t) + kSlack;
}

}  // namespace

StepTable::StepTable(std::size_t tensors_max)
    : storage_(bytes_for(tensors_max)),
      tensors_max_(tensors_max),
      multiprocessors_(device::cuda::multiprocessors()) {}

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
  const auto add = [&](std::size_t begin, std::size_t count, const auto& units_of_row) {
    const std::span<std::int64_t> first_units = storage_.reserve<std::int64_t>(count + 1);
    return make_range(rows.subspan(begin, count), storage_.on_device(all) + begin, first_units,
                      storage_.on_device(first_units), units_of_row);
  };
  by_warps_ = add(0, warp_rows, [](const StepRow& row) {
    return units_of(chunks_of(row.count, row.chunk), kWarpLanesLog2, row.lanes_log2);
  });
  by_warps_.units_a_block = units_a_block(by_warps_.units, kWarpsABlock, multiprocessors_);
  by_blocks_ = add(warp_rows, used - warp_rows,
                   [](const StepRow& row) { return chunks_of(row.count, row.chunk); });
  by_chunks_ = add(0, used, [](const StepRow& row) {
    return (chunks_of(row.count, row.chunk) + kChunksAUnit - 1) / kChunksAUnit;
  });
  storage_.upload(stream);
}

void StepTable::launch(Pass pass, StreamHandle stream) const {
  if (by_warps_.units > 0) {
    device::cuda::check(launch_by_warps(pass, by_warps_, stream), "launching a pass by warps");
  }
  if (by_blocks_.units > 0) {
    device::cuda::check(launch_by_blocks(pass, by_blocks_, stream), "launching a pass by blocks");
  }
}

void StepTable::launch(ChunkPass pass, StreamHandle stream) const {
  if (by_chunks_.units > 0) {
    device::cuda::check(launch_by_chunks(pass, by_chunks_, stream), "launching a pass by chunks");
  }
}

void StepTable::select_and_sweep(GradientAfter gradient, StreamHandle stream) const {
  launch(gradient == GradientAfter::zero ? Pass::select_and_zero : Pass::select, stream);
}

void StepTable::gather_and_sweep(GradientAfter gradient, StreamHandle stream) const {
  launch(gradient == GradientAfter::zero ? Pass::gather_and_zero : Pass::gather, stream);
}

void StepTable::restore_selected(StreamHandle stream) const { launch(ChunkPass::restore, stream); }
void StepTable::undo_sweep(StreamHandle stream) const { launch(Pass::undo, stream); }
void StepTable::fill_selected(StreamHandle stream) const { launch(Pass::fill, stream); }
void StepTable::scatter_selected(StreamHandle stream) const { launch(ChunkPass::scatter, stream); }

void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count,
           StreamHandle stream) {
  if (count == 0) return;
  device::cuda::check(launch_widen(values, source, format_of(dtype), count, stream),
                      "launching widen");
}

}  // namespace scalecom::kernels::cuda
