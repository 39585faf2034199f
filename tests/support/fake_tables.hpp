#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "tests/support/fake_accelerator.hpp"

namespace scalecom::test {

/// A table's tensors as written on the host, and as the device has them.
template <class Tensor>
struct FakeRows {
  std::vector<Tensor> assigned;
  std::vector<Tensor> uploaded;
  std::atomic<int> queued = 0;  ///< operations that are not done yet
  /// Those of other streams than the one in whose order the table ends.
  std::atomic<int> queued_elsewhere = 0;
};

/// What both tables have in common.
template <class Tensor>
class FakeTable {
 public:
  /// Its end is in the order of `stream`, as its memory is.
  FakeTable(FakeAccelerator& accelerator, std::size_t tensors_max, StreamHandle stream,
            AcceleratorMemory staging);
  ~FakeTable();
  void assign(std::span<const Tensor> tensors, StreamHandle stream);
  /// Runs `pass` for each tensor whose place is in `range`, or is not, when the stream comes to it;
  /// `uses` names its memory. Of no tensors: nothing.
  void launch(const char* name, std::vector<MemoryUse> (*uses)(const Tensor&),
              void (*pass)(const Tensor&), StreamHandle stream, TensorRange range = {},
              bool is_inside = false) const;

 private:
  void enqueue(StreamHandle stream, Operation operation) const;

  FakeAccelerator& accelerator_;
  std::size_t tensors_max_;
  const StreamHandle stream_;
  AcceleratorMemory staging_;  ///< what a device would copy rows from
  std::shared_ptr<FakeRows<Tensor>> rows_;
};

class FakeStepTable final : public StepTable {
 public:
  FakeStepTable(FakeAccelerator& accelerator, std::size_t tensors_max, StreamHandle stream,
                AcceleratorMemory staging)
      : table_(accelerator, tensors_max, stream, std::move(staging)) {}
  void assign(std::span<const StepTensor> tensors, StreamHandle stream) override;
  void select_and_sweep(StreamHandle stream, TensorRange led) const override;
  void gather_and_sweep(StreamHandle stream, TensorRange led) const override;
  void take_back(StreamHandle stream) const override;
  void fill_selected(StreamHandle stream) const override;

 private:
  FakeTable<StepTensor> table_;
};

/// A sample with its chunks, which assign() is lent.
struct FakeSample {
  SampledTensor tensor;
  std::vector<SampledChunk> chunks;
};
void check(const FakeSample& sample);

class FakeSampleTable final : public SampleTable {
 public:
  FakeSampleTable(FakeAccelerator& accelerator, std::size_t tensors_max, std::size_t chunks_max,
                  StreamHandle stream, AcceleratorMemory staging)
      : accelerator_(accelerator),
        chunks_max_(chunks_max),
        table_(accelerator, tensors_max, stream, std::move(staging)) {}
  void assign(std::span<const SampledTensor> tensors, StreamHandle stream) override;
  void look(StreamHandle stream) const override;

 private:
  FakeAccelerator& accelerator_;
  const std::size_t chunks_max_;
  FakeTable<FakeSample> table_;
};

class FakeCopyTable final : public CopyTable {
 public:
  FakeCopyTable(FakeAccelerator& accelerator, std::size_t tensors_max, StreamHandle stream,
                AcceleratorMemory staging)
      : table_(accelerator, tensors_max, stream, std::move(staging)) {}
  void assign(std::span<const CopyTensor> tensors, StreamHandle stream) override;
  void scale_copy(StreamHandle stream) const override;

 private:
  FakeTable<CopyTensor> table_;
};

}  // namespace scalecom::test
