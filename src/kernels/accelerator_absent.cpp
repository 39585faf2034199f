// A build without CUDA.

#include <fmt/format.h>

#include "kernels/accelerator.hpp"
#include "scalecom/status.hpp"

namespace scalecom {

std::unique_ptr<Accelerator> make_cuda_accelerator(int index) {
  throw Error(StatusCode::unavailable,
              fmt::format("this build has no CUDA, and cannot use CUDA device {}: build scalecom "
                          "where nvcc is found (CUDACXX, SCALECOM_WITH_CUDA=ON), or use tensors in "
                          "host memory",
                          index));
}

std::vector<std::string> describe_cuda_devices() {
  throw Error(StatusCode::unavailable, "this build has no CUDA");
}

}  // namespace scalecom
