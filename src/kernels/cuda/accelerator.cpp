#include "kernels/accelerator.hpp"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <mutex>
#include <optional>
#include <set>

#include "device/cuda/error.hpp"
#include "device/cuda/memory.hpp"
#include "device/cuda/stream.hpp"
#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/sample.hpp"
#include "kernels/cuda/scale.hpp"
#include "kernels/cuda/step.hpp"
#include "kernels/pinned_pool.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

namespace cuda = device::cuda;
using kernels::cuda::format_of;

/// Whether the process uses the device already. The driver's library is there, once one is used.
bool has_context(int device) {
  using GetState = int (*)(int device, unsigned* flags, int* is_active);
  static const auto get_state = [] {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    void* found = driver == nullptr ? nullptr : dlsym(driver, "cuDevicePrimaryCtxGetState");
    return reinterpret_cast<GetState>(found);
  }();
  unsigned flags = 0;
  int is_active = 1;
  return get_state == nullptr || get_state(device, &flags, &is_active) != 0 || is_active != 0;
}

/// Makes `index` current, and what was current when the result goes. Nothing to do, no allocation:
/// empty.
std::shared_ptr<void> make_current(int index) {
  int former = 0;
  cuda::check(cudaGetDevice(&former), "cudaGetDevice");
  if (former == index) return {};
  cuda::check(cudaSetDevice(index), "cudaSetDevice");
  // To go back to a device that this process does not use would begin its use: some hundred MB.
  if (!has_context(former)) return {};
  return std::shared_ptr<void>(nullptr, [former](void*) { cudaSetDevice(former); });
}

std::string describe(int index) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return fmt::format("{} (compute capability {}.{})", properties.name, properties.major,
                     properties.minor);
}

std::string find_bus_id(int index) {
  std::array<char, 64> text{};
  cuda::check(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), index),
              "cudaDeviceGetPCIBusId");
  return text.data();
}

class CudaAccelerator final : public Accelerator {
 public:
  explicit CudaAccelerator(int index)
      : index_(index), description_(describe(index)), bus_id_(find_bus_id(index)) {
    const std::shared_ptr<void> entered = enter();
    // Behind it, as a call of CUDA's begins the use of the current device.
    const cuda::BesideCaptures beside;
    // Begins the process's use of the device: what stands against that shows here.
    cuda::check(cudaFree(nullptr), "cudaFree");
    for (const auto load : {kernels::cuda::load_step, kernels::cuda::load_scale_copy,
                            kernels::cuda::load_look, kernels::cuda::load_conversions}) {
      cuda::check(load(), "loading the kernels");
    }
    if (cuda::MemoryPool::is_supported(index)) pool_.emplace(index);
  }

  int index() const noexcept override { return index_; }
  std::string description() const override { return description_; }
  std::string bus_id() const override { return bus_id_; }
  std::shared_ptr<void> enter() override { return make_current(index_); }

  void limit_kept() override {
    if (pool_) pool_->limit_kept();
  }
  AcceleratorMemory allocate_pinned(std::size_t bytes) override {
    return {cuda::allocate_pinned(bytes).release(), cuda::FreePinned()};
  }

  StreamOwner make_stream() override {
    const std::lock_guard lock(mutex_);
    StreamOwner stream(cuda::Stream().release(), [this](StreamHandle gone) {
      const std::lock_guard at_end(mutex_);
      streams_.erase(gone);
      cuda::DestroyStream()(gone);
    });
    streams_.insert(stream.get());
    return stream;
  }
  bool is_capturing(StreamHandle stream) override { return cuda::is_capturing(stream); }
  EventOwner make_event() override { return {cuda::Event().release(), cuda::DestroyEvent()}; }
  void record(EventHandle event, StreamHandle stream) override { cuda::record(event, stream); }
  void make_wait(StreamHandle stream, EventHandle event) override {
    cuda::make_wait(stream, event);
  }
  bool is_done(EventHandle event) override {
    // CUDA might begin the use of another device, which is the current one of who asks.
    const std::shared_ptr<void> entered = enter();
    return cuda::is_done(event);
  }

  void copy(void* destination, const void* source, std::size_t bytes,
            StreamHandle stream) override {
    cuda::copy(destination, source, bytes, stream);
  }
  void set_zero(void* destination, std::size_t bytes, StreamHandle stream) override {
    cuda::set_bytes(destination, 0, bytes, stream);
  }

  std::unique_ptr<StepTable> make_step_table(std::size_t tensors_max, StreamHandle stream,
                                             PinnedPool* pinned) override {
    using Table = kernels::cuda::CudaStepTable;
    return std::make_unique<Table>(tensors_max,
                                   table_memory(Table::bytes_for(tensors_max), stream, pinned));
  }
  std::unique_ptr<CopyTable> make_copy_table(std::size_t tensors_max, StreamHandle stream,
                                             PinnedPool* pinned) override {
    using Table = kernels::cuda::CudaCopyTable;
    return std::make_unique<Table>(tensors_max,
                                   table_memory(Table::bytes_for(tensors_max), stream, pinned));
  }
  std::unique_ptr<SampleTable> make_sample_table(std::size_t tensors_max, std::size_t chunks_max,
                                                 StreamHandle stream, PinnedPool* pinned) override {
    using Table = kernels::cuda::CudaSampleTable;
    return std::make_unique<Table>(
        table_memory(Table::bytes_for(tensors_max, chunks_max), stream, pinned));
  }

  void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count,
             StreamHandle stream) override {
    if (count == 0) return;
    cuda::check(kernels::cuda::launch_widen(values, source, format_of(dtype), count, stream),
                "launching widen");
  }
  void mark(std::byte* marks, DataType dtype, std::int64_t* counts, std::int64_t count,
            StreamHandle stream) override {
    if (count == 0) return;
    cuda::check(kernels::cuda::launch_mark(marks, format_of(dtype), counts, count, stream),
                "launching mark");
  }
  void count_nonfinite(std::int64_t* found, const std::byte* values, DataType dtype,
                       std::int64_t count, StreamHandle stream) override {
    if (count == 0) return;
    cuda::check(
        kernels::cuda::launch_count_nonfinite(found, values, format_of(dtype), count, stream),
        "launching count_nonfinite");
  }
  void pack_offsets(std::byte* wire, std::int64_t wire_bytes, const std::uint16_t* offsets,
                    std::int64_t count, StreamHandle stream) override {
    if (count == 0) return;
    cuda::check(kernels::cuda::launch_pack_offsets(wire, wire_bytes, offsets, count, stream),
                "launching pack_offsets");
  }
  void unpack_offsets(std::uint16_t* offsets, const std::byte* wire, std::int64_t wire_bytes,
                      std::int64_t count, std::int64_t first, StreamHandle stream) override {
    if (count == 0) return;
    cuda::check(
        kernels::cuda::launch_unpack_offsets(offsets, wire, wire_bytes, count, first, stream),
        "launching unpack_offsets");
  }

 private:
  AcceleratorMemory take(std::size_t bytes) override {
    return {cuda::allocate_device(bytes).release(), cuda::FreeDevice()};
  }
  AcceleratorMemory take(std::size_t bytes, MemoryOrder order) override {
    // Without pools freeing waits for the device, and so comes behind what uses the memory.
    if (!pool_) return take(bytes);
    return {pool_->allocate(bytes, order.from), cuda::FreeInOrder{order.until}};
  }
  void give_back_kept() override {
    if (!pool_) return;
    const std::lock_guard lock(mutex_);
    pool_->give_back_kept({streams_.begin(), streams_.end()});
  }

  kernels::cuda::TableMemory table_memory(std::size_t bytes, StreamHandle stream,
                                          PinnedPool* pinned) {
    return {bytes, pinned != nullptr ? pinned->allocate(bytes, stream) : allocate_pinned(bytes),
            allocate(bytes, {stream, stream})};
  }

  const int index_;
  const std::string description_;
  const std::string bus_id_;
  std::optional<cuda::MemoryPool> pool_;
  std::mutex mutex_;
  std::set<StreamHandle> streams_;  ///< that there are; guarded by mutex_
};

}  // namespace

std::unique_ptr<Accelerator> make_cuda_accelerator(int index) {
  int devices = 0;
  cuda::check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  if (index < 0 || index >= devices) {
    throw Error(StatusCode::unavailable,
                fmt::format("CUDA device {} is not there: this process sees {} (numbered from 0); "
                            "see nvidia-smi and CUDA_VISIBLE_DEVICES",
                            index, devices));
  }
  return std::make_unique<CudaAccelerator>(index);
}

std::vector<std::string> describe_cuda_devices() {
  int devices = 0;
  cuda::check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  if (devices == 0) cuda::check(cudaErrorNoDevice, "cudaGetDeviceCount");
  std::vector<std::string> described;
  for (int index = 0; index < devices; ++index) described.push_back(describe(index));
  return described;
}

}  // namespace scalecom
