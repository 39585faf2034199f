#include "device/cuda/stream.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "device/cuda/error.hpp"

namespace scalecom::device::cuda {
void DestroyStream::operator()(CUstream_st* stream) const noexcept { cudaStreamDestroy(stream); }
void DestroyEvent::operator()(CUevent_st* event) const noexcept { cudaEventDestroy(event); }

Stream::Stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  stream_.reset(stream);
}

void Stream::synchronize() const {
  check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
}

Event::Event(Kind kind) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event,
                                 kind == Kind::timed ? cudaEventDefault : cudaEventDisableTiming),
        "cudaEventCreateWithFlags");
  event_.reset(event);
}

double Event::milliseconds_since(const Event& begin) const {
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, begin.event_.get(), event_.get()),
        "cudaEventElapsedTime");
  return static_cast<double>(milliseconds);
}

BesideCaptures::BesideCaptures() noexcept {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  former_ = cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess
                ? static_cast<int>(mode)
                : static_cast<int>(cudaStreamCaptureModeGlobal);
}

BesideCaptures::~BesideCaptures() {
  auto mode = static_cast<cudaStreamCaptureMode>(former_);
  cudaThreadExchangeStreamCaptureMode(&mode);
}

bool is_capturing(StreamHandle stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

void record(EventHandle event, StreamHandle stream) {
  check(cudaEventRecord(event, stream), "cudaEventRecord");
}

void make_wait(StreamHandle stream, EventHandle event) {
  check(cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
}

bool is_done(EventHandle event) {
  const BesideCaptures beside;
  const cudaError_t error = cudaEventQuery(event);
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // Else the next launch may report it as its own.
    return false;
  }
  check(error, "cudaEventQuery");
  return true;
}

void copy(void* destination, const void* source, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  const cudaError_t error = cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, stream);
  if (error != cudaSuccess) {
    check(error, fmt::format("cudaMemcpyAsync of {} bytes", bytes).c_str());
  }
}

void set_bytes(void* destination, int value, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(destination, value, bytes, stream), "cudaMemsetAsync");
}

int multiprocessors() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  return count;
}

}  // namespace scalecom::device::cuda
