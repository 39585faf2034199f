#include "device/cuda/error.hpp"
#include "device/cuda/memory.hpp"
#include "device/cuda/stream.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

TEST_CASE("too much device memory is refused with what was asked for and what helps") {
  std::string message;
  try {
    device::cuda::allocate_device(std::size_t{1} << 46);
  } catch (const Error& error) {
    message = error.what();
  }
  CAPTURE(message);
  CHECK(message.find("70368744177664 bytes") != std::string::npos);
  CHECK(message.find("cudaErrorMemoryAllocation") != std::string::npos);
  CHECK(message.find("SCALECOM_FUSION_THRESHOLD") != std::string::npos);
  CHECK(device::cuda::multiprocessors() > 0);  // The error is not reported again.
}

TEST_CASE("an event orders two streams without the host") {
  const device::cuda::Stream first;
  const device::cuda::Stream second;
  device::cuda::Event written;
  const auto memory = device::cuda::allocate_device(std::size_t{1} << 28);
  std::byte last{};
  device::cuda::set_bytes(memory.get(), 1, std::size_t{1} << 28, first.handle());
  device::cuda::set_bytes(memory.get(), 2, std::size_t{1} << 28, first.handle());
  written.record(first.handle());
  written.make_wait(second.handle());
  device::cuda::copy_to_host(&last, memory.get() + (std::size_t{1} << 28) - 1, 1, second.handle());
  second.synchronize();
  CHECK(last == std::byte{2});
  CHECK(written.is_done());
}
