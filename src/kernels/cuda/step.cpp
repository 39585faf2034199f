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
  row.residual = tensor.residual;
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

/// Of a tensor's sweep, by whichever team.
std::int64_t swept_units(std::int64_t count, std::int32_t chunk, std::int32_t lanes_log2) {
  const std::int64_t chunks = chunks_of(count, chunk);
  return chunk <= kWarpChunkMax ? units_of(chunks, kWarpLanesLog2, lanes_log2) : chunks;
}

}  // namespace

std::size_t CudaStepTable::bytes_for(std::size_t tensors_max) {
  return tensors_max * sizeof(StepRow) + 3 * index_bytes(tensors_max);
}

CudaStepTable::CudaStepTable(std::size_t tensors_max, TableMemory memory)
    : storage_(std::move(memory)), tensors_max_(tensors_max) {}

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
  const auto swept = [](const StepRow& row) {
    return swept_units(row.count, row.chunk, row.lanes_log2);
  };
  by_warps_.range = range(0, warp_rows, swept);
  by_blocks_.range = range(warp_rows, used, swept);
  count_units(tensors);
  by_elements_ =
      range(0, used, [](const StepRow& row) { return quotient_up(row.count, kFilledAUnit); });
}

// The sums fit: make_index() has seen to that.
void CudaStepTable::count_units(std::span<const StepTensor> tensors) {
  by_warps_.units_before.assign(1, 0);
  by_blocks_.units_before.assign(1, 0);
  for (const StepTensor& tensor : tensors) {
    const StepRow row = row_of(tensor);
    const auto units = static_cast<std::int32_t>(swept_units(row.count, row.chunk, row.lanes_log2));
    const bool for_warps = is_for_warps(tensor);
    by_warps_.units_before.push_back(by_warps_.units_before.back() + (for_warps ? units : 0));
    by_blocks_.units_before.push_back(by_blocks_.units_before.back() + (for_warps ? 0 : units));
  }
}

void CudaStepTable::sweep(Pass pass, TensorRange led, StreamHandle stream) const {
  const auto swept = [&](const TeamRows& rows) {
    const auto units_before = [&](std::size_t tensor) {
      return rows.units_before.empty()
                 ? 0
                 : rows.units_before[std::min(tensor, rows.units_before.size() - 1)];
    };
    const std::int32_t begin = units_before(led.begin);
    const std::int32_t units = units_before(led.end) - begin;
    RowRange range = rows.range;
    const bool is_led = pass == Pass::select;
    range.index.skip_from = is_led ? 0 : begin;
    range.index.skipped = is_led ? begin : units;
    range.index.units = is_led ? units : range.index.units - units;
    return range;
  };
  if (const RowRange range = swept(by_warps_); range.index.units > 0) {
    device::cuda::check(launch_by_warps(pass, range, stream), "launching a sweep by warps");
  }
  if (const RowRange range = swept(by_blocks_); range.index.units > 0) {
    device::cuda::check(launch_by_blocks(pass, range, stream), "launching a sweep by blocks");
  }
}

void CudaStepTable::select_and_sweep(StreamHandle stream, TensorRange led) const {
  sweep(Pass::select, led, stream);
}
void CudaStepTable::gather_and_sweep(StreamHandle stream, TensorRange led) const {
  sweep(Pass::gather, led, stream);
}
void CudaStepTable::take_back(StreamHandle stream) const {
  if (by_elements_.index.units == 0) return;
  device::cuda::check(launch_take_back(by_elements_, stream), "launching take_back");
}
void CudaStepTable::fill_selected(StreamHandle stream) const {
  if (by_elements_.index.units == 0) return;
  device::cuda::check(launch_fill(by_elements_, stream), "launching fill_selected");
}

}  // namespace scalecom::kernels::cuda
