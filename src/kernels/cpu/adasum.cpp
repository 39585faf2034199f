#include "kernels/adasum.hpp"

#include <fmt/format.h>

#include "base/error.hpp"

#define HWY_TARGET_INCLUDE "kernels/cpu/adasum_inl.hpp"
#include <hwy/foreach_target.h>
// The target of the compiler's own flags comes last.
#include "kernels/cpu/adasum_inl.hpp"

namespace scalecom::kernels {
namespace {

HWY_EXPORT(run_pair_products);
HWY_EXPORT(run_weighted_sum);

}  // namespace

PairProducts pair_products(const std::byte* a, const std::byte* b, std::int64_t count,
                           DataType dtype) {
  SCALECOM_ASSERT(count >= 0, fmt::format("{} elements", count));
  return HWY_DYNAMIC_DISPATCH(run_pair_products)(a, b, static_cast<std::size_t>(count), dtype);
}

void weighted_sum(std::byte* a, double weight_a, const std::byte* b, double weight_b,
                  std::int64_t count, DataType dtype) {
  SCALECOM_ASSERT(count >= 0, fmt::format("{} elements", count));
  HWY_DYNAMIC_DISPATCH(run_weighted_sum)
  (a, weight_a, b, weight_b, static_cast<std::size_t>(count), dtype);
}

}  // namespace scalecom::kernels
