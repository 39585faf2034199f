#include "tests/support/fake_tables.hpp"

#include <fmt/format.h>

#include "tests/support/step_on_host.hpp"

namespace scalecom::test {
namespace {

std::size_t bytes_of(std::int64_t count, DataType dtype) {
  return static_cast<std::size_t>(count * size_of(dtype));
}

std::int64_t selected_of(const StepTensor& t) { return (t.gradient.count + t.chunk - 1) / t.chunk; }

/// What every pass uses that takes a step or takes it back.
std::vector<MemoryUse> common_uses(const StepTensor& t) {
  const std::int64_t selected = selected_of(t);
  std::vector<MemoryUse> uses = {
      {t.residual, bytes_of(t.gradient.count, DataType::float32)},
      {t.gradient.data, bytes_of(t.gradient.count, t.gradient.dtype)},
      {t.offsets, bytes_of(selected, DataType::int16)},
      {t.selected.kept, bytes_of(selected, DataType::float32)},
  };
  return uses;
}

std::vector<MemoryUse> sweep_uses(const StepTensor& t) {
  std::vector<MemoryUse> uses = common_uses(t);
  uses.push_back({t.selected.values, bytes_of(selected_of(t), t.selected.dtype)});
  uses.push_back({t.nonfinite, t.gradient.count > 0 ? sizeof(*t.nonfinite) : 0});
  return uses;
}

MemoryUse mark_use(const StepTensor& t) {
  return {t.mark, t.mark == nullptr ? 0 : sizeof(*t.mark)};
}

std::vector<MemoryUse> take_back_uses(const StepTensor& t) {
  std::vector<MemoryUse> uses = common_uses(t);
  uses.push_back(mark_use(t));
  return uses;
}

std::vector<MemoryUse> fill_uses(const StepTensor& t) {
  const std::int64_t selected = selected_of(t);
  std::vector<MemoryUse> uses;
  if (t.mark != nullptr && t.residual != nullptr) uses = common_uses(t);
  uses.insert(uses.end(), {{t.result, bytes_of(t.gradient.count, t.gradient.dtype)},
                           {t.offsets, bytes_of(selected, DataType::int16)},
                           {t.reduced, bytes_of(selected, DataType::float32)},
                           mark_use(t)});
  return uses;
}

std::vector<MemoryUse> copy_uses(const CopyTensor& t) {
  return {{t.destination, bytes_of(t.count, t.dtype)}, {t.source, bytes_of(t.count, t.dtype)}};
}

template <void (*kPass)(const StepTensor&)>
void if_not_empty(const StepTensor& t) {
  if (t.gradient.count > 0) kPass(t);
}

std::vector<MemoryUse> sample_uses(const FakeSample& sample) {
  const SampledTensor& t = sample.tensor;
  const auto chunks = static_cast<std::int64_t>(sample.chunks.size());
  std::vector<MemoryUse> uses = {
      {t.compensated, bytes_of(t.elements + 2, DataType::float32)},
      {t.figures, bytes_of(2, DataType::float32)},
      {t.offsets, bytes_of(chunks, DataType::int16)},
  };
  for (std::int64_t i = 0; i < chunks; ++i) {
    const SampledChunk& chunk = sample.chunks[static_cast<std::size_t>(i)];
    const std::int64_t length = std::min(t.chunk, t.elements - i * t.chunk);
    uses.push_back({chunk.residual, bytes_of(length, DataType::float32)});
    uses.push_back({chunk.gradient, bytes_of(length, t.dtype)});
    uses.push_back({chunk.offset, sizeof(*chunk.offset)});
    uses.push_back({chunk.kept, sizeof(*chunk.kept)});
  }
  return uses;
}

void look_on_host(const FakeSample& sample) {
  SampledTensor tensor = sample.tensor;
  tensor.chunks = sample.chunks;
  test::look_on_host(tensor);
}

void copy_on_host(const CopyTensor& t) {
  kernels::scale_copy(t.destination, t.source, t.count, t.dtype, t.scale);
}

}  // namespace

template <class Tensor>
FakeTable<Tensor>::FakeTable(FakeAccelerator& accelerator, std::size_t tensors_max,
                             StreamHandle stream, AcceleratorMemory staging)
    : accelerator_(accelerator),
      tensors_max_(tensors_max),
      stream_(stream),
      staging_(std::move(staging)),
      rows_(std::make_shared<FakeRows<Tensor>>()) {}

template <class Tensor>
FakeTable<Tensor>::~FakeTable() {
  accelerator_.require(rows_->queued_elsewhere == 0,
                       "a table ends while queued operations of another stream use it");
}

template <class Tensor>
void FakeTable<Tensor>::enqueue(StreamHandle stream, Operation operation) const {
  const int elsewhere = stream == stream_ ? 0 : 1;
  ++rows_->queued;
  rows_->queued_elsewhere += elsewhere;
  operation.run = [rows = rows_, run = std::move(operation.run), elsewhere] {
    run();
    --rows->queued;
    rows->queued_elsewhere -= elsewhere;
    return true;
  };
  accelerator_.enqueue(stream, std::move(operation));
}

template <class Tensor>
void FakeTable<Tensor>::assign(std::span<const Tensor> tensors, StreamHandle stream) {
  accelerator_.require(tensors.size() <= tensors_max_,
                       fmt::format("{} tensors in a table for {}", tensors.size(), tensors_max_));
  for (const Tensor& tensor : tensors) check(tensor);
  accelerator_.require(rows_->queued == 0, "assign() to a table that queued operations use");
  rows_->assigned.assign(tensors.begin(), tensors.end());
  enqueue(stream, {"assign", {{staging_.get(), 1}}, true, [rows = rows_] {
                     rows->uploaded = rows->assigned;
                     return true;
                   }});
}

template <class Tensor>
void FakeTable<Tensor>::launch(const char* name, std::vector<MemoryUse> (*uses)(const Tensor&),
                               void (*pass)(const Tensor&), StreamHandle stream, TensorRange range,
                               bool is_inside) const {
  std::vector<std::size_t> places;
  std::vector<MemoryUse> all;
  for (std::size_t i = 0; i < rows_->assigned.size(); ++i) {
    if ((i >= range.begin && i < range.end) != is_inside) continue;
    places.push_back(i);
    for (const MemoryUse& use : uses(rows_->assigned[i])) all.push_back(use);
  }
  if (places.empty()) return;
  enqueue(stream, {name, std::move(all), false, [rows = rows_, pass, places] {
                     for (const std::size_t i : places) pass(rows->uploaded[i]);
                     return true;
                   }});
}

template class FakeTable<StepTensor>;
template class FakeTable<CopyTensor>;
template class FakeTable<FakeSample>;

void FakeStepTable::assign(std::span<const StepTensor> tensors, StreamHandle stream) {
  table_.assign(tensors, stream);
}
void FakeStepTable::select_and_sweep(StreamHandle stream, TensorRange led) const {
  table_.launch("select_and_sweep", sweep_uses, if_not_empty<select_on_host>, stream, led, true);
}
void FakeStepTable::gather_and_sweep(StreamHandle stream, TensorRange led) const {
  table_.launch("gather_and_sweep", sweep_uses, if_not_empty<gather_on_host>, stream, led, false);
}
void FakeStepTable::take_back(StreamHandle stream) const {
  table_.launch("take_back", take_back_uses, if_not_empty<take_back_on_host>, stream);
}
void FakeStepTable::fill_selected(StreamHandle stream) const {
  table_.launch("fill_selected", fill_uses, if_not_empty<fill_on_host>, stream);
}

void check(const FakeSample& sample) {
  SampledTensor tensor = sample.tensor;
  tensor.chunks = sample.chunks;
  scalecom::check(tensor);
}

void FakeSampleTable::assign(std::span<const SampledTensor> tensors, StreamHandle stream) {
  std::vector<FakeSample> samples;
  std::size_t chunks = 0;
  for (const SampledTensor& tensor : tensors) {
    samples.push_back({tensor, {tensor.chunks.begin(), tensor.chunks.end()}});
    chunks += tensor.chunks.size();
  }
  accelerator_.require(chunks <= chunks_max_,
                       fmt::format("{} chunks in a table for {}", chunks, chunks_max_));
  table_.assign(samples, stream);
}
void FakeSampleTable::look(StreamHandle stream) const {
  table_.launch("look", sample_uses, look_on_host, stream);
}

void FakeCopyTable::assign(std::span<const CopyTensor> tensors, StreamHandle stream) {
  table_.assign(tensors, stream);
}
void FakeCopyTable::scale_copy(StreamHandle stream) const {
  table_.launch("scale_copy", copy_uses, copy_on_host, stream);
}

}  // namespace scalecom::test
