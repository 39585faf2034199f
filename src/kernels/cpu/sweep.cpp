#include "kernels/cpu/sweep.hpp"

#include <fmt/format.h>

#include <algorithm>

#define HWY_TARGET_INCLUDE "kernels/cpu/sweep_inl.hpp"
#include <hwy/foreach_target.h>
// The target of the compiler's own flags comes last.
#include "kernels/cpu/sweep_inl.hpp"

namespace scalecom::kernels {
namespace {

HWY_EXPORT(run_sweep);
HWY_EXPORT(run_select);
HWY_EXPORT(run_undo);

// The 32-bit counters of non-finite elements must not overflow.
constexpr std::int64_t kPassMax = std::int64_t{1} << 32;

void check(const float* memory, const Gradient& gradient) {
  SCALECOM_ASSERT(gradient.dtype == DataType::float32 || gradient.dtype == DataType::float16 ||
                      gradient.dtype == DataType::bfloat16,
                  fmt::format("a gradient of {}", to_string(gradient.dtype)));
  SCALECOM_ASSERT(gradient.count == 0 || (memory != nullptr && gradient.data != nullptr),
                  fmt::format("no memory or no gradient for {} elements", gradient.count));
}

// Elements [begin, begin + count).
SweepArguments part_of(float* memory, const Gradient& gradient, float beta, std::int64_t begin,
                       std::int64_t count) {
  Gradient part = gradient;
  part.data += begin * size_of(gradient.dtype);
  part.count = count;
  return {memory + begin, part, beta};
}

}  // namespace

std::int64_t sweep(float* memory, const Gradient& gradient, float beta) {
  check(memory, gradient);
  std::int64_t nonfinite = 0;
  for (std::int64_t begin = 0; begin < gradient.count; begin += kPassMax) {
    const std::int64_t count = std::min(kPassMax, gradient.count - begin);
    nonfinite += HWY_DYNAMIC_DISPATCH(run_sweep)(part_of(memory, gradient, beta, begin, count));
  }
  return nonfinite;
}

std::int64_t sweep_and_select(float* memory, const Gradient& gradient, float beta,
                              std::int64_t chunk, std::uint16_t* offsets) {
  check(memory, gradient);
  SCALECOM_ASSERT(chunk >= 1 && chunk <= 65536, fmt::format("chunk length {}", chunk));
  const std::int64_t pass = kPassMax / chunk * chunk;
  std::int64_t nonfinite = 0;
  for (std::int64_t begin = 0; begin < gradient.count; begin += pass) {
    const std::int64_t count = std::min(pass, gradient.count - begin);
    nonfinite +=
        HWY_DYNAMIC_DISPATCH(run_select)(part_of(memory, gradient, beta, begin, count),
                                         static_cast<std::size_t>(chunk), offsets + begin / chunk);
  }
  return nonfinite;
}

void undo_sweep(float* memory, const Gradient& gradient, float beta) {
  check(memory, gradient);
  HWY_DYNAMIC_DISPATCH(run_undo)(part_of(memory, gradient, beta, 0, gradient.count));
}

}  // namespace scalecom::kernels
