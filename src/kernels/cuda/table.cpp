#include "kernels/cuda/table.hpp"

#include <fmt/format.h>

#include <limits>

#include "base/error.hpp"

namespace scalecom::kernels::cuda {

std::size_t StagedTable::take(std::size_t bytes) {
  const std::size_t begin = used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  SCALECOM_ASSERT(used_ <= memory_.bytes,
                  fmt::format("{} of {} bytes of a table", used_, memory_.bytes));
  return begin;
}

void StagedTable::upload(device::cuda::StreamHandle stream) const {
  device::cuda::copy(memory_.device.get(), memory_.pinned.get(), used_, stream);
}

ElementFormat format_of(DataType dtype) {
  switch (dtype) {
    case DataType::float16: return ElementFormat::float16;
    case DataType::bfloat16: return ElementFormat::bfloat16;
    default: break;
  }
  SCALECOM_ASSERT(dtype == DataType::float32,
                  fmt::format("{} where only floating-point values work", to_string(dtype)));
  return ElementFormat::float32;
}

UnitIndex make_index(StagedTable& table, std::span<const std::int64_t> units) {
  UnitIndex index;
  std::int64_t sum = 0;
  std::span<std::int32_t> level = table.reserve<std::int32_t>(units.size());
  for (std::size_t i = 0; i < units.size(); ++i) {
    level[i] = static_cast<std::int32_t>(sum);
    sum += units[i];
  }
  SCALECOM_ASSERT(sum < std::numeric_limits<std::int32_t>::max(),
                  fmt::format("{} units of work in a table", sum));
  index.units = static_cast<std::int32_t>(sum);
  while (true) {
    SCALECOM_ASSERT(index.levels_used < kLevels, fmt::format("{} rows in a table", units.size()));
    index.levels[index.levels_used] = table.on_device(level);
    index.sizes[index.levels_used] = static_cast<std::int32_t>(level.size());
    ++index.levels_used;
    if (level.size() <= kFanOut) return index;
    const std::span<std::int32_t> higher =
        table.reserve<std::int32_t>((level.size() + kFanOut - 1) / kFanOut);
    for (std::size_t i = 0; i < higher.size(); ++i) higher[i] = level[i * kFanOut];
    level = higher;
  }
}

}  // namespace scalecom::kernels::cuda
