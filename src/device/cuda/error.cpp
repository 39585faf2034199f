#include "device/cuda/error.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "base/out_of_memory.hpp"

namespace scalecom::device::cuda {
namespace {

const char* remedy(cudaError_t error) {
  switch (error) {
    case cudaErrorInsufficientDriver:
      return "the NVIDIA driver is absent or older than this build's CUDA runtime: install a newer "
             "driver, or build with a CUDA toolkit that is no newer than the CUDA version that "
             "nvidia-smi shows, or use tensors in host memory";
    case cudaErrorStubLibrary:
      return "the loader has found the CUDA toolkit's stub of libcuda.so, which is for linking: "
             "take "
             "its folder (stubs) out of LD_LIBRARY_PATH, so that the driver's own is found";
    case cudaErrorInitializationError:
      return "the driver cannot begin here; a process that was forked from one that uses CUDA "
             "cannot use it: start processes by spawn (multiprocessing's set_start_method), or "
             "fork "
             "before CUDA is used; else see nvidia-smi";
    case cudaErrorOperatingSystem:
    case cudaErrorUnknown:
      return "the driver's devices may be missing or closed to this process: see that nvidia-smi "
             "works here, and that /dev/nvidia* (nvidia-uvm, too) are there";
    case cudaErrorSystemNotReady:
      return "the machine's NVSwitches are not set up: see that nvidia-fabricmanager runs, in the "
             "driver's version";
    case cudaErrorMpsConnectionFailed:
    case cudaErrorMpsRpcFailure:
    case cudaErrorMpsServerNotReady:
    case cudaErrorMpsMaxClientsReached:
    case cudaErrorMpsMaxConnectionsReached:
      return "MPS, which this process is to share the device by, does not take it: see that "
             "nvidia-cuda-mps-control runs with the same CUDA_MPS_PIPE_DIRECTORY, by the same "
             "user, "
             "and has a place left; or unset CUDA_MPS_PIPE_DIRECTORY";
    case cudaErrorNoDevice:
      return "no CUDA device is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES";
    case cudaErrorInvalidDevice: return "the device index is not one of CUDA_VISIBLE_DEVICES";
    case cudaErrorMemoryAllocation:
      return "there is not that much memory: free some (torch.cuda.empty_cache(), or for JAX a "
             "smaller XLA_PYTHON_CLIENT_MEM_FRACTION); pinned memory is the host's";
    case cudaErrorNoKernelImageForDevice:
      return "this build has no code for the device: build again with CMAKE_CUDA_ARCHITECTURES set "
             "to its compute capability";
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilationDisabled:
      return "this build has only PTX for the device, which the driver cannot compile: install a "
             "newer driver (and unset CUDA_DISABLE_PTX_JIT), or build again with "
             "CMAKE_CUDA_ARCHITECTURES set to its compute capability";
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return "the driver in use and its libraries differ: restart the machine after a driver "
             "update";
    case cudaErrorInvalidResourceHandle:
      return "a stream is of another device than its tensor, of another process, or is no more: "
             "submit with a stream of the tensor's device";
    case cudaErrorECCUncorrectable:
      return "the device's memory is damaged: nvidia-smi -q -d ECC tells more";
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorMisalignedAddress:
      return "a kernel went wrong, scalecom's or another of this process, and the process can use "
             "the device no more: compute-sanitizer names the kernel";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorCapturedEvent:
      return "a stream is being captured into a CUDA graph, which holds no collectives: submit and "
             "wait before or behind the capture (torch.cuda.graph and others)";
    case cudaErrorDevicesUnavailable:
      return "another process has the device to itself: see nvidia-smi";
    default: return "the driver's log (dmesg) may say more";
  }
}

}  // namespace

void check(int cuda_error, const char* call) {
  const auto error = static_cast<cudaError_t>(cuda_error);
  if (error == cudaSuccess) return;
  cudaGetLastError();  // Takes the error back, so that the next call does not report it again.
  const std::string message =
      fmt::format("{} failed with {} ({}): {}", call, cudaGetErrorName(error),
                  cudaGetErrorString(error), remedy(error));
  if (error == cudaErrorMemoryAllocation) throw OutOfMemory(message);
  throw Error(StatusCode::unavailable, message);
}

bool has_device(const char** reason) noexcept {
  int devices = 0;
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices == 0) error = cudaErrorNoDevice;
  if (error == cudaSuccess) return true;
  cudaGetLastError();
  if (reason != nullptr) *reason = remedy(error);
  return false;
}

}  // namespace scalecom::device::cuda
