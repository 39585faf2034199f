#include "kernels/cuda/scale.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "device/cuda/error.hpp"
#include "kernels/scale_method.hpp"

namespace scalecom::kernels::cuda {
namespace {

CopyFormat format_for(const CopyTensor& tensor) {
  if (tensor.scale.is_identity()) return CopyFormat::none;
  switch (tensor.dtype) {
    case DataType::float32: return CopyFormat::float32;
    case DataType::float16: return CopyFormat::float16;
    case DataType::bfloat16: return CopyFormat::bfloat16;
    case DataType::float64: return CopyFormat::float64;
    case DataType::uint8: return CopyFormat::uint8;
    case DataType::int8: return CopyFormat::int8;
    case DataType::int16: return CopyFormat::int16;
    case DataType::int32: return CopyFormat::int32;
    case DataType::int64: return CopyFormat::int64;
    case DataType::boolean: break;
  }
  return CopyFormat::none;
}

bool has_method(CopyFormat format) {
  return format == CopyFormat::float32 || format == CopyFormat::float16 ||
         format == CopyFormat::bfloat16;
}

Scaling scaling_of(CopyFormat format, DataType dtype, const Scale& scale) {
  if (format == CopyFormat::none) return {};
  const ScaleChoice choice = choose_scale_method(dtype, scale);
  const Scale& simple = choice.scale;
  const Scaling in_double{ScaleStep::in_double, 1.0f, simple.multiply, simple.divide};
  if (!has_method(format)) return in_double;
  switch (choice.method) {
    case ScaleMethod::multiply_in_float:
      return {ScaleStep::multiply_in_float, static_cast<float>(simple.multiply)};
    case ScaleMethod::divide_in_float:
      return {ScaleStep::divide_in_float, static_cast<float>(simple.divide)};
    case ScaleMethod::in_double: break;
  }
  return in_double;
}

std::uintptr_t address_of(const std::byte* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

CopyRow row_of(const CopyTensor& tensor) {
  const CopyFormat format = format_for(tensor);
  return {tensor.destination, tensor.source, tensor.count * size_of(tensor.dtype), format,
          scaling_of(format, tensor.dtype, tensor.scale)};
}

CopyLayout layout_of(const CopyRow& row) {
  return {static_cast<std::int32_t>(address_of(row.destination) % CopyLayout::kVectorBytes),
          row.bytes};
}

CopyKind kind_of(const CopyRow& row) {
  const bool has_words = layout_of(row).source_shift(address_of(row.source)) % 4 == 0;
  return has_words && row.scaling.step != ScaleStep::in_double ? CopyKind::plain : CopyKind::other;
}

}  // namespace

// All tensors may be of one kind or the other.
std::size_t CudaCopyTable::bytes_for(std::size_t tensors_max) {
  return 2 * (tensors_max * sizeof(CopyRow) + StagedTable::kAlignment + index_bytes(tensors_max));
}

CudaCopyTable::CudaCopyTable(std::size_t tensors_max, TableMemory memory)
    : storage_(std::move(memory)), tensors_max_(tensors_max) {}

void CudaCopyTable::assign(std::span<const CopyTensor> tensors, StreamHandle stream) {
  if (std::equal(tensors.begin(), tensors.end(), assigned_.begin(), assigned_.end())) return;
  SCALECOM_ASSERT(tensors.size() <= tensors_max_,
                  fmt::format("{} tensors in a table for {}", tensors.size(), tensors_max_));
  for (const CopyTensor& tensor : tensors) check(tensor);
  assigned_.clear();
  write_rows(tensors);
  storage_.upload(stream);
  assigned_.assign(tensors.begin(), tensors.end());
}

void CudaCopyTable::write_rows(std::span<const CopyTensor> tensors) {
  storage_.clear();
  for (const CopyKind kind : {CopyKind::plain, CopyKind::other}) {
    const std::span<CopyRow> rows = storage_.reserve<CopyRow>(tensors.size());
    units_.clear();
    for (const CopyTensor& tensor : tensors) {
      if (tensor.count == 0) continue;
      const CopyRow row = row_of(tensor);
      if (kind_of(row) != kind) continue;
      rows[units_.size()] = row;
      units_.push_back((layout_of(row).vectors() + kCopyVectorsAUnit - 1) / kCopyVectorsAUnit);
    }
    CopyRange& range = ranges_[static_cast<std::size_t>(kind)];
    range = {};
    if (!units_.empty()) range = {storage_.on_device(rows), make_index(storage_, units_)};
  }
}

void CudaCopyTable::scale_copy(StreamHandle stream) const {
  for (const CopyKind kind : {CopyKind::plain, CopyKind::other}) {
    const CopyRange& range = ranges_[static_cast<std::size_t>(kind)];
    if (range.index.units == 0) continue;
    device::cuda::check(launch_scale_copy(kind, range, stream), "launching scale_copy");
  }
}

}  // namespace scalecom::kernels::cuda
