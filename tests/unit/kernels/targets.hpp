#pragma once

#include <hwy/highway.h>

#include <string>

namespace scalecom::test {

/// Runs body(name) once for each SIMD target that is compiled and that this machine has, with the
/// kernels bound to it.
template <class Body>
void for_each_simd_target(Body&& body) {
  for (std::int64_t targets = hwy::SupportedTargets() & HWY_TARGETS; targets != 0;
       targets &= targets - 1) {
    const std::int64_t target = targets & -targets;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body(std::string(hwy::TargetName(target)));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace scalecom::test
