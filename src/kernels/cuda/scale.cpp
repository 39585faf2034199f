#include "kernels/cuda/scale.hpp"

#include <fmt/format.h>

#include <vector>

#include "base/error.hpp"
#include "device/cuda/error.hpp"
#include "kernels/scale_method.hpp"

namespace scalecom::kernels::cuda {
namespace {

Scaling scaling_of(DataType dtype, const Scale& scale) {
  if (scale.is_identity()) return {};
  const ScaleChoice choice = choose_scale_method(dtype, scale);
  const Scale& simple = choice.scale;
  switch (choice.method) {
    case ScaleMethod::multiply_in_float:
      return {ScaleStep::multiply_in_float, static_cast<float>(simple.multiply)};
    case ScaleMethod::divide_in_float:
      return {ScaleStep::divide_in_float, static_cast<float>(simple.divide)};
    case ScaleMethod::in_double: break;
  }
  return {ScaleStep::in_double, 1.0f, simple.multiply, simple.divide};
}

ElementFormat format_of(DataType dtype) {
  switch (dtype) {
    case DataType::float16: return ElementFormat::float16;
    case DataType::bfloat16: return ElementFormat::bfloat16;
    default: return ElementFormat::float32;
  }
}

std::uintptr_t address_of(const std::byte* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

void check(const CopyTensor& tensor) {
  SCALECOM_ASSERT(tensor.count >= 0, fmt::format("{} elements", tensor.count));
  if (tensor.scale.is_identity()) return;
  const DataType dtype = tensor.dtype;
  SCALECOM_ASSERT(
      dtype == DataType::float32 || dtype == DataType::float16 || dtype == DataType::bfloat16,
      fmt::format("{} times {} / {} on a CUDA device", to_string(dtype), tensor.scale.multiply,
                  tensor.scale.divide));
  const auto bytes = static_cast<std::uintptr_t>(size_of(dtype));
  SCALECOM_ASSERT(
      address_of(tensor.destination) % bytes == 0 && address_of(tensor.source) % bytes == 0,
      fmt::format("scaled {} that are not aligned", to_string(dtype)));
}

CopyRow row_of(const CopyTensor& tensor) {
  return {tensor.destination, tensor.source, tensor.count * size_of(tensor.dtype),
          format_of(tensor.dtype), scaling_of(tensor.dtype, tensor.scale)};
}

CopyLayout layout_of(const CopyRow& row) {
  return {static_cast<std::int32_t>(address_of(row.destination) % CopyLayout::kVectorBytes),
          row.bytes};
}

CopyKind kind_of(const CopyRow& row) {
  const bool has_words = layout_of(row).source_shift(address_of(row.source)) % 4 == 0;
  return has_words && row.scaling.step != ScaleStep::in_double ? CopyKind::plain : CopyKind::other;
}

/// All tensors may be of one kind or the other.
std::size_t bytes_for(std::size_t tensors_max) {
  return 2 * (tensors_max * sizeof(CopyRow) + StagedTable::kAlignment + index_bytes(tensors_max));
}

}  // namespace

CopyTable::CopyTable(std::size_t tensors_max)
    : storage_(bytes_for(tensors_max)), tensors_max_(tensors_max) {}

void CopyTable::assign(std::span<const CopyTensor> tensors, device::cuda::StreamHandle stream) {
  SCALECOM_ASSERT(tensors.size() <= tensors_max_,
                  fmt::format("{} tensors in a table for {}", tensors.size(), tensors_max_));
  for (const CopyTensor& tensor : tensors) check(tensor);
  storage_.clear();
  std::vector<std::int64_t> units;
  for (const CopyKind kind : {CopyKind::plain, CopyKind::other}) {
    CopyRange& range = ranges_[static_cast<std::size_t>(kind)];
    range = {};
    const std::span<CopyRow> rows = storage_.reserve<CopyRow>(tensors.size());
    units.clear();
    for (const CopyTensor& tensor : tensors) {
      const CopyRow row = row_of(tensor);
      if (tensor.count == 0 || kind_of(row) != kind) continue;
      rows[units.size()] = row;
      units.push_back((layout_of(row).vectors() + kCopyVectorsAUnit - 1) / kCopyVectorsAUnit);
    }
    if (!units.empty()) range = {storage_.on_device(rows), make_index(storage_, units)};
  }
  storage_.upload(stream);
}

void CopyTable::scale_copy(device::cuda::StreamHandle stream) const {
  for (const CopyKind kind : {CopyKind::plain, CopyKind::other}) {
    const CopyRange& range = ranges_[static_cast<std::size_t>(kind)];
    if (range.index.units == 0) continue;
    device::cuda::check(launch_scale_copy(kind, range, stream), "launching scale_copy");
  }
}

}  // namespace scalecom::kernels::cuda
