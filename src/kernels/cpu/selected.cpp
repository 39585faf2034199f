#include "kernels/cpu/selected.hpp"

#include <fmt/format.h>

#define HWY_TARGET_INCLUDE "kernels/cpu/selected_inl.hpp"
#include <hwy/foreach_target.h>
// The target of the compiler's own flags comes last.
#include "kernels/cpu/selected_inl.hpp"

namespace scalecom::kernels {
namespace {

HWY_EXPORT(run_widen);
HWY_EXPORT(run_fill);

std::int64_t selected_of(std::int64_t count, std::int64_t chunk) {
  SCALECOM_ASSERT(chunk >= 1 && chunk <= 65536, fmt::format("chunk length {}", chunk));
  return (count + chunk - 1) / chunk;
}

}  // namespace

void restore_selected(float* residual, std::int64_t count, std::int64_t chunk,
                      const std::uint16_t* offsets, const float* kept) {
  const std::int64_t selected = selected_of(count, chunk);
  for (std::int64_t j = 0; j < selected; ++j) residual[j * chunk + offsets[j]] = kept[j];
}

void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(run_widen)(values, source, dtype, static_cast<std::size_t>(count));
}

void fill_selected(std::byte* result, DataType dtype, std::int64_t count, std::int64_t chunk,
                   const std::uint16_t* offsets, const float* values, std::int64_t together) {
  const bool is_streamed = std::max(together, count * size_of(dtype)) >= kStreamedBytes;
  HWY_DYNAMIC_DISPATCH(run_fill)
  ({result, dtype, count, chunk, selected_of(count, chunk), offsets, values, is_streamed});
}

}  // namespace scalecom::kernels
