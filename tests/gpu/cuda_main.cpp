// Exits with 77, and says why, where there is no device.
#include <cstdio>

#include "device/cuda/error.hpp"
#include "tests/gpu/accelerators.hpp"
#include "tests/support/run_cases.hpp"

namespace scalecom::test {

std::unique_ptr<Accelerator> make_accelerator() { return make_cuda_accelerator(0); }

}  // namespace scalecom::test

int main(int argc, char** argv) {
  const char* reason = "";
  if (!scalecom::device::cuda::has_device(&reason)) {
    std::printf("skipped: %s\n", reason);
    return 77;
  }
  return scalecom::test::run_cases(argc, argv);
}
