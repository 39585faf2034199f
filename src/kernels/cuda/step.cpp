#include "kernels/cuda/step.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "device/cuda/error.hpp"
#include "kernels/cuda/layout.hpp"

namespace scalecom::kernels::cuda {
namespace {

bool is_for_warps(const StepTensor& tensor) { return tensor.chunk <= kWarpChunkMax; }

StepRow row_of(const StepTensor& tensor) {
  const auto chunk = static_cast<std::int32_t>(tensor.chunk);
  const auto team = is_for_warps(tensor) ? kWarpLanesLog2 : kBlockLanesLog2;
  StepRow row{};
  row.memory = tensor.memory;
  row.gradient = tensor.gradient.data;
  row.result = tensor.result;
  row.count = tensor.gradient.count;
  row.offsets = tensor.offsets;
  row.values = tensor.selected.values;
  row.kept = tensor.selected.kept;
  row.reduced = tensor.reduced;
  row.mark = tensor.mark;
  row.nonfinite = reinterpret_cast<unsigned long long*>(tensor.nonfinite);
  row.prescale = tensor.gradient.prescale;
  row.beta = tensor.beta;
  row.limit = tensor.selected.limit;
  row.chunk = chunk;
  row.format = format_of(tensor.gradient.dtype);
  row.value_format = format_of(tensor.selected.dtype);
  row.lanes_log2 = lanes_log2_for(chunk, team);
  row.chunk_inverse = 1.0 / static_cast<double>(chunk);
  return row;
}

std::int64_t quotient_up(std::int64_t dividend, std::int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

}  // namespace

std::size_t CudaStepTable::bytes_for(std::size_t tensors_max) {
  return tensors_max * sizeof(StepRow) + 3 * index_bytes(tensors_max);
}

CudaStepTable::CudaStepTable(std::size_t tensors_max, AcceleratorMemory memory)
    : storage_(bytes_for(tensors_max), std::move(memory)), tensors_max_(tensors_max) {}

void CudaStepTable::assign(std::span<const StepTensor> tensors, StreamHandle stream) {
  if (std::equal(tensors.begin(), tensors.end(), assigned_.begin(), assigned_.end())) return;
  SCALECOM_ASSERT(tensors.size() <= tensors_max_,
                  fmt::format("{} tensors in a table for {}", tensors.size(), tensors_max_));
  for (const StepTensor& tensor : tensors) check(tensor);
  assigned_.clear();
  write_rows(tensors);
  storage_.upload(stream);
  assigned_.assign(tensors.begin(), tensors.end());
}

void CudaStepTable::write_rows(std::span<const StepTensor> tensors) {
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
  const auto range = [&](std::size_t begin, std::size_t end, const auto& units_of_row) -> RowRange {
    units_.clear();
    for (std::size_t i = begin; i < end; ++i) units_.push_back(units_of_row(rows[i]));
    if (units_.empty()) return {};
    return {storage_.on_device(all) + begin, make_index(storage_, units_)};
  };
  by_warps_ = range(0, warp_rows, [](const StepRow& row) {
    return units_of(chunks_of(row.count, row.chunk), kWarpLanesLog2, row.lanes_log2);
  });
  by_blocks_ =
      range(warp_rows, used, [](const StepRow& row) { return chunks_of(row.count, row.chunk); });
  by_elements_ =
      range(0, used, [](const StepRow& row) { return quotient_up(row.count, kFilledAUnit); });
}

void CudaStepTable::sweep(Pass pass, StreamHandle stream) const {
  if (by_warps_.index.units > 0) {
    device::cuda::check(launch_by_warps(pass, by_warps_, stream), "launching a sweep by warps");
  }
  if (by_blocks_.index.units > 0) {
    device::cuda::check(launch_by_blocks(pass, by_blocks_, stream), "launching a sweep by blocks");
  }
}

void CudaStepTable::select_and_sweep(StreamHandle stream) const { sweep(Pass::select, stream); }
void CudaStepTable::gather_and_sweep(StreamHandle stream) const { sweep(Pass::gather, stream); }
void CudaStepTable::take_back(StreamHandle stream) const {
  if (by_elements_.index.units == 0) return;
  device::cuda::check(launch_take_back(by_elements_, stream), "launching take_back");
}
void CudaStepTable::fill_selected(StreamHandle stream) const {
  if (by_elements_.index.units == 0) return;
  device::cuda::check(launch_fill(by_elements_, stream), "launching fill_selected");
}

}  // namespace scalecom::kernels::cuda
