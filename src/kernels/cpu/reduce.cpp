#include "kernels/reduce.hpp"

#include <fmt/format.h>

#include "base/error.hpp"

#define HWY_TARGET_INCLUDE "kernels/cpu/reduce_inl.hpp"
#include <hwy/foreach_target.h>
// The target of the compiler's own flags comes last.
#include "kernels/cpu/reduce_inl.hpp"

namespace scalecom::kernels {
namespace {

HWY_EXPORT(run_reduce);
HWY_EXPORT(target_name);

}  // namespace

void reduce(std::byte* destination, const std::byte* a, const std::byte* b, std::int64_t count,
            DataType dtype, ReduceOp op) {
  SCALECOM_ASSERT(op != ReduceOp::average, "an average is a sum and a scale");
  SCALECOM_ASSERT(op != ReduceOp::adasum, "Adasum is not elementwise");
  SCALECOM_ASSERT(count >= 0, fmt::format("{} elements", count));
  HWY_DYNAMIC_DISPATCH(run_reduce)
  (destination, a, b, static_cast<std::size_t>(count), dtype, op);
}

const char* simd_target() noexcept { return HWY_DYNAMIC_DISPATCH(target_name)(); }

}  // namespace scalecom::kernels
