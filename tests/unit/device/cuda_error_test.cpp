// What CUDA's errors become, with and without a device.

#include <cuda_runtime_api.h>

#include "device/cuda/error.hpp"
#include "device/cuda/memory.hpp"
#include "device/cuda/stream.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

std::string message_of(int error) {
  try {
    device::cuda::check(error, "cudaSomething of 7 bytes");
  } catch (const Error& thrown) {
    CHECK(thrown.code() == StatusCode::unavailable);
    return thrown.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a CUDA error names the call, CUDA's name for it and what helps") {
  const struct {
    int error;
    const char* name;
    const char* remedy;
  } cases[] = {
      {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "nvidia-smi shows"},
      {cudaErrorNoDevice, "cudaErrorNoDevice", "CUDA_VISIBLE_DEVICES"},
      {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "CUDA_VISIBLE_DEVICES"},
      {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "torch.cuda.empty_cache"},
      {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
       "CMAKE_CUDA_ARCHITECTURES"},
      {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
       "before or behind the capture"},
      {cudaErrorStubLibrary, "cudaErrorStubLibrary", "LD_LIBRARY_PATH"},
      {cudaErrorInitializationError, "cudaErrorInitializationError", "spawn"},
      {cudaErrorUnknown, "cudaErrorUnknown", "nvidia-uvm"},
      {cudaErrorSystemNotReady, "cudaErrorSystemNotReady", "nvidia-fabricmanager"},
      {cudaErrorMpsConnectionFailed, "cudaErrorMpsConnectionFailed", "CUDA_MPS_PIPE_DIRECTORY"},
      {cudaErrorUnsupportedPtxVersion, "cudaErrorUnsupportedPtxVersion", "CUDA_DISABLE_PTX_JIT"},
      {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "of the tensor's device"},
      {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "nvidia-smi -q -d ECC"},
      {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "compute-sanitizer"}};
  for (const auto& [error, name, remedy] : cases) {
    const std::string message = message_of(error);
    CAPTURE(message);
    CHECK(message.find("cudaSomething of 7 bytes") == 0);
    CHECK(message.find(name) != std::string::npos);
    CHECK(message.find(remedy) != std::string::npos);
  }
  CHECK(message_of(cudaSuccess) == "");
}

TEST_CASE(
    "a machine without a driver or device says so at the first call, and can be asked before") {
  const char* reason = nullptr;
  if (device::cuda::has_device(&reason)) {
    CHECK_NOTHROW(device::cuda::allocate_device(64));
    return;
  }
  REQUIRE(reason != nullptr);
  CHECK(std::string(reason).size() > 20);
  CHECK_THROWS_AS(device::cuda::allocate_device(64), Error);
  CHECK_THROWS_AS(device::cuda::allocate_pinned(64), Error);
  CHECK_THROWS_AS(device::cuda::Stream(), Error);
}
