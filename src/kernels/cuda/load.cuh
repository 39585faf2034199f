#pragma once

#include <cuda_runtime_api.h>

#include <initializer_list>

namespace scalecom::kernels::cuda {

/// Loads kernels onto the current device; returns a cudaError_t. CUDA does so at their first
/// launch, else, and may wait then for all that is on the device: for a collective, too, of a rank
/// that is lost.
template <class... Kernel>
int load(Kernel*... kernels) {
  cudaFuncAttributes attributes{};
  int error = cudaSuccess;
  for (const void* kernel : {reinterpret_cast<const void*>(kernels)...}) {
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
  }
  return error;
}

}  // namespace scalecom::kernels::cuda
