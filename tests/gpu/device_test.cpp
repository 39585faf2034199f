// What only a CUDA device has.

#include <cuda_runtime_api.h>

#include <cstring>
#include <future>
#include <vector>

#include "device/cuda/error.hpp"
#include "device/cuda/stream.hpp"
#include "scalecom/status.hpp"
#include "tests/gpu/accelerators.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

/// What `call` says as it fails.
template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::size_t free_bytes() {
  std::size_t free = 0;
  std::size_t total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

}  // namespace

TEST_CASE("too much device memory is refused with what was asked for, what is free and what helps",
          "[light]") {
  const auto accelerator = make_cuda_accelerator(0);
  const auto entered = accelerator->enter();
  constexpr std::size_t kBytes = std::size_t{1} << 46;
  for (const std::string& message : {message_of([&] { accelerator->allocate(kBytes); }),
                                     message_of([&] { accelerator->allocate(kBytes, {}); })}) {
    CAPTURE(message);
    CHECK(message.find("70368744177664 bytes (") != std::string::npos);
    CHECK(message.find("are free") != std::string::npos);
    CHECK(message.find("cudaErrorMemoryAllocation") != std::string::npos);
    CHECK(message.find("torch.cuda.empty_cache()") != std::string::npos);
  }
  CHECK(device::cuda::multiprocessors() > 0);  // The error is not reported again.
}

TEST_CASE("memory that is kept goes to whoever lacks it") {
  const auto accelerator = make_cuda_accelerator(0);
  const auto entered = accelerator->enter();
  const StreamOwner stream = accelerator->make_stream();
  const MemoryOrder order{stream.get(), stream.get()};
  const std::size_t most = free_bytes() / 5 * 3;  // Not twice.
  const std::size_t part = most / 4;
  std::vector<AcceleratorMemory> parts;
  for (int i = 0; i < 4; ++i) parts.push_back(accelerator->allocate(part, order));
  parts.clear();
  test::finish(*accelerator, stream.get());
  CHECK(free_bytes() < most);
  CHECK(message_of([&] { accelerator->allocate(most, order); }) == "");
  test::finish(*accelerator, stream.get());
  CHECK(free_bytes() < most);
  CHECK(message_of([&] { accelerator->allocate(most); }) == "");
}

TEST_CASE("memory that is kept goes when it is used no more, at the next wait for the device") {
  const auto accelerator = make_cuda_accelerator(0);
  const auto entered = accelerator->enter();
  const StreamOwner stream = accelerator->make_stream();
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  const std::size_t before = free_bytes();
  const auto kept_after_wait = [&] {
    CHECK(cudaStreamSynchronize(stream.get()) == cudaSuccess);
    return free_bytes() + kBytes / 2 < before;
  };
  accelerator->allocate(kBytes, {stream.get(), stream.get()});
  CHECK(kept_after_wait());
  accelerator->limit_kept();  // It was used before.
  CHECK(kept_after_wait());
  accelerator->limit_kept();
  CHECK_FALSE(kept_after_wait());
}

TEST_CASE("a device that is not there is refused with what is", "[light]") {
  const std::string message = message_of([] { make_cuda_accelerator(1000); });
  CAPTURE(message);
  CHECK(message.find("CUDA device 1000") != std::string::npos);
  CHECK(message.find("CUDA_VISIBLE_DEVICES") != std::string::npos);
}

TEST_CASE("entering the current device costs nothing and allocates nothing", "[light]") {
  const auto accelerator = make_cuda_accelerator(0);
  const auto entered = accelerator->enter();
  CHECK(accelerator->enter() == nullptr);
  CHECK(accelerator->enter().use_count() == 0);
}

TEST_CASE("a capture of a graph goes on while another thread asks for events and takes memory",
          "[light]") {
  const auto accelerator = make_cuda_accelerator(0);
  const auto entered = accelerator->enter();
  const StreamOwner own = accelerator->make_stream();
  const StreamOwner captured = accelerator->make_stream();
  const EventOwner event = accelerator->make_event();
  accelerator->record(event.get(), own.get());
  REQUIRE(cudaStreamBeginCapture(captured.get(), cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(accelerator->is_capturing(captured.get()));
  CHECK_FALSE(accelerator->is_capturing(own.get()));
  std::vector<AcceleratorMemory> memory;
  const auto use = [&] {
    const auto inside = accelerator->enter();
    accelerator->is_done(event.get());
    memory.push_back(accelerator->allocate(1 << 20));
    memory.push_back(accelerator->allocate(1 << 20, {own.get(), own.get()}));
    memory.push_back(accelerator->allocate_pinned(1 << 20));
  };
  const std::string message = std::async(std::launch::async, [&] { return message_of(use); }).get();
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(captured.get(), &graph) == cudaSuccess);
  CHECK(message == "");
  if (graph != nullptr) cudaGraphDestroy(graph);
}

TEST_CASE("a tensor of more than 2^31 elements is worked on to its end") {
  constexpr std::int64_t kCount = (std::int64_t{1} << 31) + 1003;
  constexpr std::int64_t kChunk = 1000;
  constexpr std::int64_t kSelected = (kCount + kChunk - 1) / kChunk;
  const auto accelerator = make_cuda_accelerator(0);
  const auto entered = accelerator->enter();
  const auto memory = accelerator->allocate(kCount * 4);
  const auto gradient = accelerator->allocate(kCount * 2);
  const auto out = accelerator->allocate(kSelected * 16 + 8);
  const auto host = accelerator->allocate_pinned(16);
  const StreamOwner owner = accelerator->make_stream();
  const StreamHandle stream = owner.get();
  accelerator->set_zero(memory.get(), kCount * 4, stream);
  accelerator->set_zero(gradient.get(), kCount * 2, stream);
  accelerator->set_zero(out.get(), kSelected * 16 + 8, stream);
  const std::uint16_t one = 0x3F80;  // bfloat16
  std::memcpy(host.get(), &one, sizeof(one));
  accelerator->copy(gradient.get() + (kCount - 2) * 2, host.get(), 2, stream);
  const float three = 3.0f;
  std::memcpy(host.get() + 4, &three, sizeof(three));
  accelerator->copy(memory.get() + (kCount - 2) * 4, host.get() + 4, 4, stream);
  StepTensor tensor;
  tensor.residual = reinterpret_cast<float*>(memory.get());
  tensor.gradient = {gradient.get(), DataType::bfloat16, kCount, 1.0f};
  tensor.beta = 0.5f;
  tensor.chunk = kChunk;
  tensor.nonfinite = reinterpret_cast<std::int64_t*>(out.get());
  tensor.selected.values = out.get() + 8;
  tensor.selected.kept = reinterpret_cast<float*>(out.get() + 8 + kSelected * 4);
  tensor.offsets = reinterpret_cast<std::uint16_t*>(out.get() + 8 + kSelected * 8);
  tensor.result = gradient.get();
  tensor.reduced = reinterpret_cast<const float*>(tensor.selected.values);
  const auto table = accelerator->make_step_table(1, stream);
  table->assign({&tensor, 1}, stream);
  table->select_and_sweep(stream);
  accelerator->copy(host.get(), tensor.selected.values + (kSelected - 1) * 4, 4, stream);
  accelerator->copy(host.get() + 4, tensor.residual + kCount - 2, 4, stream);
  accelerator->copy(host.get() + 8, tensor.offsets + kSelected - 1, 2, stream);
  table->take_back(stream);
  accelerator->copy(host.get() + 12, tensor.residual + kCount - 2, 4, stream);
  table->fill_selected(stream);
  accelerator->copy(host.get() + 10, gradient.get() + (kCount - 2) * 2, 2, stream);
  test::finish(*accelerator, stream);
  float value = 0.0f;
  float left = 0.0f;
  float taken_back = 0.0f;
  std::uint16_t offset = 0;
  std::uint16_t result = 0;
  std::memcpy(&value, host.get(), 4);
  std::memcpy(&left, host.get() + 4, 4);
  std::memcpy(&offset, host.get() + 8, 2);
  std::memcpy(&result, host.get() + 10, 2);
  std::memcpy(&taken_back, host.get() + 12, 4);
  CHECK(value == 4.0f);
  CHECK(left == 1.5f);
  CHECK(offset == (kCount - 2) % kChunk);
  CHECK(result == 0x4080);  // 4 as bfloat16
  CHECK(taken_back == 3.0f);
}
