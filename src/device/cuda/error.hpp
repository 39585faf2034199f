#pragma once

namespace scalecom::device::cuda {

/// Throws Error(unavailable) for a CUDA error code other than success, OutOfMemory for lack of it.
/// `call` is what was called and for what, such as "cudaMalloc of 1024 bytes"; the message adds
/// CUDA's name of the error and the remedy that we know.
void check(int cuda_error, const char* call);

/// True when there is a driver and a device; else `reason`, if given, says what is missing.
bool has_device(const char** reason = nullptr) noexcept;

}  // namespace scalecom::device::cuda
