// The same tests on CUDA's own tables, whose launches are emulated: all is done at once, in the
// host's memory.
#include <cstring>
#include <new>
#include <stdexcept>

#include "kernels/cuda/sample.hpp"
#include "kernels/cuda/scale.hpp"
#include "kernels/cuda/step.hpp"
#include "tests/gpu/accelerators.hpp"

namespace scalecom::test {
namespace {

class EmulatedAccelerator final : public Accelerator {
 public:
  int index() const noexcept override { return 0; }
  std::string description() const override { return "emulated"; }
  std::string bus_id() const override { return ""; }
  std::shared_ptr<void> enter() override { return {}; }
  void limit_kept() override {}
  AcceleratorMemory allocate_pinned(std::size_t bytes) override { return take(bytes); }
  StreamOwner make_stream() override { return {}; }
  bool is_capturing(StreamHandle) override { return false; }
  EventOwner make_event() override { return {}; }
  void record(EventHandle, StreamHandle) override {}
  void make_wait(StreamHandle, EventHandle) override {}
  bool is_done(EventHandle) override { return true; }
  void copy(void* destination, const void* source, std::size_t bytes, StreamHandle) override {
    std::memcpy(destination, source, bytes);
  }
  void set_zero(void* destination, std::size_t bytes, StreamHandle) override {
    std::memset(destination, 0, bytes);
  }
  std::unique_ptr<StepTable> make_step_table(std::size_t tensors_max, StreamHandle,
                                             PinnedPool*) override {
    using Table = kernels::cuda::CudaStepTable;
    return std::make_unique<Table>(tensors_max, table_memory(Table::bytes_for(tensors_max)));
  }
  std::unique_ptr<CopyTable> make_copy_table(std::size_t tensors_max, StreamHandle,
                                             PinnedPool*) override {
    using Table = kernels::cuda::CudaCopyTable;
    return std::make_unique<Table>(tensors_max, table_memory(Table::bytes_for(tensors_max)));
  }
  std::unique_ptr<SampleTable> make_sample_table(std::size_t tensors_max, std::size_t chunks_max,
                                                 StreamHandle, PinnedPool*) override {
    using Table = kernels::cuda::CudaSampleTable;
    return std::make_unique<Table>(table_memory(Table::bytes_for(tensors_max, chunks_max)));
  }
  // They have no tables.
  void widen(float*, const std::byte*, DataType, std::int64_t, StreamHandle) override { refuse(); }
  void mark(std::byte*, DataType, std::int64_t*, std::int64_t, StreamHandle) override { refuse(); }
  void count_nonfinite(std::int64_t*, const std::byte*, DataType, std::int64_t,
                       StreamHandle) override {
    refuse();
  }
  void pack_offsets(std::byte*, std::int64_t, const std::uint16_t*, std::int64_t,
                    StreamHandle) override {
    refuse();
  }
  void unpack_offsets(std::uint16_t*, const std::byte*, std::int64_t, std::int64_t, std::int64_t,
                      StreamHandle) override {
    refuse();
  }

 private:
  [[noreturn]] static void refuse() { throw std::logic_error("not emulated"); }
  AcceleratorMemory take(std::size_t bytes) override {
    constexpr std::align_val_t kAlignment{256};
    auto* const memory = static_cast<std::byte*>(::operator new(bytes, kAlignment));
    return {memory, [](std::byte* gone) { ::operator delete(gone, kAlignment); }};
  }
  AcceleratorMemory take(std::size_t bytes, MemoryOrder) override { return take(bytes); }
  void give_back_kept() override {}
  kernels::cuda::TableMemory table_memory(std::size_t bytes) {
    return {bytes, take(bytes), take(bytes)};
  }
};

}  // namespace

std::unique_ptr<Accelerator> make_accelerator() { return std::make_unique<EmulatedAccelerator>(); }

}  // namespace scalecom::test
