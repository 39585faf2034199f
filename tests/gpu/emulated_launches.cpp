// What the CUDA kernels do with a table, unit by unit as the launching code numbers them, in the
// host's memory: for tests of that code without a device.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "device/cuda/error.hpp"
#include "device/cuda/stream.hpp"
#include "kernels/cpu/half.hpp"
#include "kernels/cuda/element.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/sample_rows.hpp"
#include "kernels/cuda/scale_rows.hpp"
#include "kernels/cuda/step_rows.hpp"
#include "kernels/sampled_element.hpp"
#include "scalecom/status.hpp"

namespace scalecom::device::cuda {

void check(int cuda_error, const char* call) {
  if (cuda_error != 0) throw Error(StatusCode::unavailable, call);
}

void copy(void* destination, const void* source, std::size_t bytes, StreamHandle) {
  std::memcpy(destination, source, bytes);
}

}  // namespace scalecom::device::cuda

namespace scalecom::kernels::cuda {
namespace {

using device::cuda::StreamHandle;

/// Calls body with the format of half.hpp.
template <class Body>
auto with_format(ElementFormat format, const Body& body) {
  switch (format) {
    case ElementFormat::float16: return body(Float16Format());
    case ElementFormat::bfloat16: return body(Bfloat16Format());
    default: return body(Float32Format());
  }
}

float load(ElementFormat format, const void* data, std::int64_t index) {
  return with_format(format, [&](auto f) {
    return f.load(static_cast<const std::byte*>(data), static_cast<std::size_t>(index));
  });
}

void store(ElementFormat format, void* data, std::int64_t index, float value) {
  with_format(format, [&](auto f) {
    f.store(static_cast<std::byte*>(data), static_cast<std::size_t>(index), value);
  });
}

float gradient_of(const StepRow& row, std::int64_t index) {
  return row.prescale * load(row.format, row.gradient, index);
}

/// Calls body(row, its unit) for each unit that a launch does, found level by level as a warp does.
template <class Body>
void for_each_unit(const UnitIndex& index, const Body& body) {
  for (std::int32_t number = 0; number < index.units; ++number) {
    const std::int32_t unit = launched_unit(index, number);
    std::int32_t row = 0;
    for (int level = index.levels_used - 1; level >= 0; --level) {
      const std::int32_t* const begin = index.levels[level] + row * kFanOut;
      const std::int32_t* const end =
          std::min(begin + kFanOut, index.levels[level] + index.sizes[level]);
      const auto not_beyond = std::count_if(begin, end, [&](auto first) { return first <= unit; });
      row = row * kFanOut + static_cast<std::int32_t>(not_beyond) - 1;
    }
    body(row, unit - index.levels[0][row]);
  }
}

void take(const StepRow& row, std::int64_t chunk, std::int64_t index) {
  const auto round = [&](float value) {
    std::byte rounded[sizeof(float)];
    store(row.value_format, rounded, 0, value);
    return load(row.value_format, rounded, 0);
  };
  const float residual = row.residual[index];
  const TakenElement taken =
      take_element(residual, gradient_of(row, index), row.beta, row.limit, round);
  store(row.value_format, row.values, chunk, taken.sent);
  row.residual[index] = taken.residual;
  row.kept[chunk] = residual;
}

void sweep_chunk(Pass pass, const StepRow& row, std::int64_t chunk) {
  const std::int64_t begin = chunk * row.chunk;
  const auto length =
      static_cast<std::int32_t>(std::min(std::int64_t{row.chunk}, row.count - begin));
  Candidate best;
  for (std::int32_t place = 0; place < length; ++place) {
    float& residual = row.residual[begin + place];
    const SweptElement swept = sweep_element(residual, gradient_of(row, begin + place), row.beta);
    residual = swept.residual;
    *row.nonfinite += swept.bits > kLargestFinite ? 1 : 0;
    const Candidate candidate{swept.bits, place};
    if (best.is_beaten_by(candidate)) best = candidate;
  }
  if (pass == Pass::select) row.offsets[chunk] = static_cast<std::uint16_t>(best.place);
  take(row, chunk, begin + row.offsets[chunk]);
}

// As CUDA has it, a launch of no blocks is an error.
int launched(const UnitIndex& index) { return index.units > 0 ? 0 : 1; }

int sweep(Pass pass, const RowRange& range, std::int32_t team_lanes_log2) {
  for_each_unit(range.index, [&](std::int32_t number, std::int32_t unit) {
    const StepRow& row = range.rows[number];
    const std::int64_t chunks = std::int64_t{1} << (team_lanes_log2 - row.lanes_log2);
    const std::int64_t end = std::min((unit + 1) * chunks, chunks_of(row.count, row.chunk));
    for (std::int64_t chunk = unit * chunks; chunk < end; ++chunk) sweep_chunk(pass, row, chunk);
  });
  return launched(range.index);
}

/// Calls body(row, element, its chunk, whether it is the selected one) for all of the range.
template <class Body>
int for_each_element(const RowRange& range, const Body& body) {
  for_each_unit(range.index, [&](std::int32_t number, std::int32_t unit) {
    const StepRow& row = range.rows[number];
    const std::int64_t begin = std::int64_t{unit} * kFilledAUnit;
    const std::int64_t end = std::min(begin + kFilledAUnit, row.count);
    for (std::int64_t i = begin; i < end; ++i) {
      const ChunkPlace at = chunk_place(i, row.chunk, row.chunk_inverse);
      body(row, i, at.chunk, at.place == row.offsets[at.chunk]);
    }
  });
  return launched(range.index);
}

void take_back(const StepRow& row, std::int64_t i, std::int64_t chunk, bool is_selected) {
  row.residual[i] =
      undo_element(is_selected ? row.kept[chunk] : row.residual[i], gradient_of(row, i), row.beta);
}

bool is_set(const float* mark) { return !(*mark == 0.0f); }

template <class T>
void scale_as(const CopyRow& row, std::int64_t i) {
  T value;
  std::memcpy(&value, row.source + i * std::int64_t{sizeof(T)}, sizeof(T));
  value = scale_in_double(value, row.scaling);
  std::memcpy(row.destination + i * std::int64_t{sizeof(T)}, &value, sizeof(T));
}

template <class Format>
void scale_floating(const CopyRow& row, std::int64_t i, Format format) {
  constexpr bool kIsWide = Format::kBytes == sizeof(float);
  const auto at = static_cast<std::size_t>(i);
  const float value = format.load(row.source, at);
  const auto scaled = [&] {
    switch (row.scaling.step) {
      case ScaleStep::multiply_in_float:
        return scale_element<ScaleStep::multiply_in_float, kIsWide>(value, row.scaling);
      case ScaleStep::divide_in_float:
        return scale_element<ScaleStep::divide_in_float, kIsWide>(value, row.scaling);
      default: return scale_element<ScaleStep::in_double, kIsWide>(value, row.scaling);
    }
  };
  format.store(row.destination, at, scaled());
}

/// Bytes of an element; `none` goes byte by byte.
std::int64_t bytes_of(CopyFormat format) {
  switch (format) {
    case CopyFormat::float64:
    case CopyFormat::int64: return 8;
    case CopyFormat::float32:
    case CopyFormat::int32: return 4;
    case CopyFormat::float16:
    case CopyFormat::bfloat16:
    case CopyFormat::int16: return 2;
    default: return 1;
  }
}

void copy_element(const CopyRow& row, std::int64_t i) {
  switch (row.format) {
    case CopyFormat::none: row.destination[i] = row.source[i]; return;
    case CopyFormat::float32: return scale_floating(row, i, Float32Format());
    case CopyFormat::float16: return scale_floating(row, i, Float16Format());
    case CopyFormat::bfloat16: return scale_floating(row, i, Bfloat16Format());
    case CopyFormat::float64: return scale_as<double>(row, i);
    case CopyFormat::uint8: return scale_as<std::uint8_t>(row, i);
    case CopyFormat::int8: return scale_as<std::int8_t>(row, i);
    case CopyFormat::int16: return scale_as<std::int16_t>(row, i);
    case CopyFormat::int32: return scale_as<std::int32_t>(row, i);
    case CopyFormat::int64: return scale_as<std::int64_t>(row, i);
  }
}

/// The plain kernel has neither shorter words nor float64.
bool can_copy(CopyKind kind, const CopyRow& row, const CopyLayout& layout) {
  const std::int32_t shift = layout.source_shift(reinterpret_cast<std::uint64_t>(row.source));
  const bool is_float = row.format <= CopyFormat::bfloat16;
  return kind == CopyKind::other ||
         (shift % 4 == 0 && is_float && row.scaling.step != ScaleStep::in_double);
}

void look_at(const SampleRow& row) {
  double error = 0.0, compensated = 0.0, residual = 0.0, gradient = 0.0;
  for (std::int32_t i = 0; i < row.elements; ++i) {
    const SampleChunkRow& chunk = row.chunks[i / row.chunk];
    const std::int32_t place = i % row.chunk;
    const double m = chunk.residual[place];
    const float g = row.prescale * load(row.format, chunk.gradient, place);
    const SampledElement element =
        place == *chunk.offset ? sent_element(chunk.residual[place], *chunk.kept, g, row.beta)
                               : unsent_element(chunk.residual[place], g, row.beta);
    error += element.error * element.error;
    compensated += element.compensated * element.compensated;
    residual += m * m;
    gradient += static_cast<double>(g) * static_cast<double>(g);
    row.compensated[i] = static_cast<float>(element.compensated);
  }
  for (std::int32_t i = 0; i < row.chunks_used; ++i) row.offsets[i] = *row.chunks[i].offset;
  const auto ratio = [](double numerator, double denominator) {
    return numerator == 0.0 ? 0.0f : static_cast<float>(std::sqrt(numerator / denominator));
  };
  const float figures[2] = {ratio(error, compensated), ratio(residual, gradient)};
  for (int i = 0; i < 2; ++i) row.compensated[row.elements + i] = row.figures[i] = figures[i];
}

}  // namespace

int launch_by_warps(Pass pass, const RowRange& range, StreamHandle) {
  return sweep(pass, range, kWarpLanesLog2);
}

int launch_by_blocks(Pass pass, const RowRange& range, StreamHandle) {
  bool is_good = true;  // The kernel takes a chunk a team, whatever the row says.
  for_each_unit(range.index, [&](auto row, auto) {
    is_good = is_good && range.rows[row].lanes_log2 == kBlockLanesLog2;
  });
  if (!is_good) return 1;
  return sweep(pass, range, kBlockLanesLog2);
}

int launch_take_back(const RowRange& range, StreamHandle) {
  if (range.index.skipped != 0) return 1;  // The kernel skips none.
  return for_each_element(range, [](const StepRow& row, auto i, auto chunk, bool is_selected) {
    if (row.mark == nullptr || is_set(row.mark)) take_back(row, i, chunk, is_selected);
  });
}

int launch_fill(const RowRange& range, StreamHandle) {
  return for_each_element(range, [](const StepRow& row, auto i, auto chunk, bool is_selected) {
    float value = is_selected ? row.reduced[chunk] : 0.0f;
    if (row.mark != nullptr && is_set(row.mark)) {
      if (row.residual != nullptr) take_back(row, i, chunk, is_selected);
      value = std::numeric_limits<float>::quiet_NaN();
    }
    store(row.format, row.result, i, value);
  });
}

int launch_scale_copy(CopyKind kind, const CopyRange& range, StreamHandle) {
  bool is_good = range.index.skipped == 0;  // The kernel skips none.
  for_each_unit(range.index, [&](std::int32_t number, std::int32_t unit) {
    const CopyRow& row = range.rows[number];
    const auto destination = reinterpret_cast<std::uint64_t>(row.destination);
    const CopyLayout layout{static_cast<std::int32_t>(destination % CopyLayout::kVectorBytes),
                            row.bytes};
    is_good = is_good && can_copy(kind, row, layout);
    const CopyUnit bytes(layout, unit, kCopyVectorsAUnit);
    const std::int64_t each = bytes_of(row.format);
    const std::int64_t end = (bytes.begin + bytes.end) / each;
    for (std::int64_t i = (bytes.begin + bytes.first) / each; i < end; ++i) copy_element(row, i);
  });
  return is_good ? 0 : 1;
}

int launch_look(const SampleRow* rows, std::int32_t rows_used, StreamHandle) {
  std::for_each(rows, rows + rows_used, look_at);
  return 0;
}

}  // namespace scalecom::kernels::cuda
