#include "tools/bench/cuda/workloads.hpp"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <random>
#include <utility>

#include "device/cuda/memory.hpp"
#include "kernels/cuda/scale.hpp"
#include "kernels/cuda/step.hpp"
#include "tools/bench/cuda/block_a_tensor.hpp"

namespace scalecom::bench {

using device::cuda::allocate_device;
using device::cuda::DeviceMemory;
using device::cuda::StreamHandle;
using kernels::cuda::CudaCopyTable;
using kernels::cuda::CudaStepTable;

constexpr std::int64_t kChunkMin = 4;

class Tensors {
 public:
  explicit Tensors(std::int64_t size)
      : count(size),
        memory(allocate_device(bytes())),
        gradient(allocate_device(bytes())),
        spare(allocate_device(bytes())),
        result(allocate_device(bytes())),
        unpacked(allocate_device(bytes())),
        offsets(allocate_device(selected_max() * 2)),
        values(allocate_device(selected_max() * 4)),
        kept(allocate_device(selected_max() * 4)),
        nonfinite(allocate_device(8)),
        marks(allocate_device(8)) {
    // Two bfloat16 of usual size in each float32, so that as float16, too, all values are usual.
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    std::vector<std::uint32_t> period(65521);
    for (std::uint32_t& value : period) {
      value = (std::bit_cast<std::uint32_t>(normal(generator)) & 0xFFFF0000u) |
              std::bit_cast<std::uint32_t>(normal(generator)) >> 16;
    }
    std::vector<std::uint32_t> host(static_cast<std::size_t>(count + kSlack));
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = period[i % period.size()];
    const device::cuda::Stream stream;
    for (std::byte* tensor : {gradient.get(), spare.get(), values.get()}) {
      const bool is_short = tensor == values.get();
      device::cuda::copy(tensor, host.data(), is_short ? selected_max() * 4 : bytes(),
                         stream.handle());
    }
    device::cuda::copy(memory.get(), host.data() + 8, static_cast<std::size_t>(count) * 4,
                       stream.handle());
    device::cuda::set_bytes(offsets.get(), 0, selected_max() * 2, stream.handle());
    device::cuda::set_bytes(nonfinite.get(), 0, 8, stream.handle());
    const float unmarked_and_marked[] = {0.0f, 1.0f};
    device::cuda::copy(marks.get(), unmarked_and_marked, 8, stream.handle());
    stream.synchronize();
  }

  StepTensor step(DataType dtype, std::int64_t chunk) const {
    StepTensor tensor;
    tensor.residual = reinterpret_cast<float*>(memory.get());
    tensor.gradient = {gradient.get(), dtype, count, 1.0f};
    tensor.beta = 0.1f;
    tensor.chunk = chunk;
    tensor.offsets = reinterpret_cast<std::uint16_t*>(offsets.get());
    tensor.selected.values = values.get();
    tensor.selected.kept = reinterpret_cast<float*>(kept.get());
    tensor.nonfinite = reinterpret_cast<std::int64_t*>(nonfinite.get());
    tensor.result = result.get();
    tensor.reduced = reinterpret_cast<const float*>(values.get());
    tensor.mark = unmarked();
    return tensor;
  }

  const float* unmarked() const { return reinterpret_cast<const float*>(marks.get()); }
  const float* marked() const { return unmarked() + 1; }
  std::size_t bytes() const { return static_cast<std::size_t>(count + kSlack) * 4; }
  std::size_t selected_max() const { return static_cast<std::size_t>(count / kChunkMin + 1); }

  static constexpr std::int64_t kSlack = 64;  // for tensors that are not aligned
  std::int64_t count;
  DeviceMemory memory, gradient, spare, result, unpacked, offsets, values, kept, nonfinite, marks;
};

std::shared_ptr<Tensors> make_tensors(std::int64_t count) {
  return std::make_shared<Tensors>(count);
}

namespace {

template <class Table>
std::shared_ptr<Table> make_table(std::size_t tensors_max) {
  kernels::cuda::TableMemory memory;
  memory.bytes = Table::bytes_for(tensors_max);
  memory.pinned = {device::cuda::allocate_pinned(memory.bytes).release(),
                   device::cuda::FreePinned()};
  memory.device = {device::cuda::allocate_device(memory.bytes).release(),
                   device::cuda::FreeDevice()};
  return std::make_shared<Table>(tensors_max, std::move(memory));
}

std::shared_ptr<CudaStepTable> table_of(const std::vector<StepTensor>& tensors) {
  const device::cuda::Stream stream;
  auto table = make_table<CudaStepTable>(tensors.size());
  table->assign(tensors, stream.handle());
  stream.synchronize();
  return table;
}

/// The leader's whole step, 16 bytes an element.
void add_leader_step(std::vector<Workload>& workloads, const std::shared_ptr<Tensors>& t,
                     std::int64_t chunk) {
  const auto table = table_of({t->step(DataType::float32, chunk)});
  workloads.push_back({fmt::format("leader's step: select, fill, C = {}", chunk),
                       16.0 * static_cast<double>(t->count),
                       [t, table](StreamHandle stream) {
                         table->select_and_sweep(stream);
                         table->fill_selected(stream);
                       },
                       {}});
}

}  // namespace

std::vector<Workload> large_workloads(const std::shared_ptr<Tensors>& t) {
  std::vector<Workload> workloads;
  const auto count = static_cast<double>(t->count);
  workloads.push_back({kCopyName,
                       8.0 * count,
                       [t](StreamHandle stream) {
                         device::cuda::copy(t->result.get(), t->spare.get(),
                                            static_cast<std::size_t>(t->count) * 4, stream);
                       },
                       {}});
  const auto add = [&](const std::string& name, double bytes, const StepTensor& tensor, auto pass) {
    const auto table = table_of({tensor});
    workloads.push_back(
        {name, bytes, [t, table, pass](StreamHandle stream) { pass(*table, stream); }, {}});
  };
  const auto select = [](const CudaStepTable& table, StreamHandle stream) {
    table.select_and_sweep(stream);
  };
  for (const std::int64_t chunk : {4, 16, 25, 64, 100, 128, 256, 400, 1000, 1024, 4096, 65536}) {
    add(fmt::format("select, C = {}", chunk), 12.0 * count, t->step(DataType::float32, chunk),
        select);
  }
  for (const DataType dtype : {DataType::float16, DataType::bfloat16}) {
    add(fmt::format("select, C = 100, {}", to_string(dtype)), 10.0 * count, t->step(dtype, 100),
        select);
  }
  StepTensor shifted = t->step(DataType::float32, 100);
  shifted.gradient.data += 4;
  add("select, C = 100, gradient not aligned", 12.0 * count, shifted, select);
  shifted = t->step(DataType::bfloat16, 100);
  shifted.gradient.data += 2;
  add("select, C = 100, bfloat16, not aligned", 10.0 * count, shifted, select);
  const StepTensor tensor = t->step(DataType::float32, 100);
  add("gather, C = 100", 12.0 * count, tensor,
      [](const CudaStepTable& table, StreamHandle stream) { table.gather_and_sweep(stream); });
  add("fill, C = 100", 4.0 * count, tensor,
      [](const CudaStepTable& table, StreamHandle stream) { table.fill_selected(stream); });
  StepTensor marked = tensor;
  marked.mark = t->marked();
  const auto take_back = [](const CudaStepTable& table, StreamHandle stream) {
    table.take_back(stream);
  };
  add("take back, C = 100", 12.0 * count, marked, take_back);
  add("fill of a marked tensor, C = 100", 16.0 * count, marked,
      [](const CudaStepTable& table, StreamHandle stream) { table.fill_selected(stream); });
  workloads.push_back({"zeros by cudaMemsetAsync, as many as a fill stores",
                       4.0 * count,
                       [t](StreamHandle stream) {
                         device::cuda::set_bytes(t->result.get(), 0,
                                                 static_cast<std::size_t>(t->count) * 4, stream);
                       },
                       {}});
  // Bytes as if it did it: the time is what counts.
  add("take back nothing, C = 100", 12.0 * count, tensor, take_back);
  for (const std::int64_t chunk : {64, 100, 128, 400, 1024}) add_leader_step(workloads, t, chunk);
  return workloads;
}

std::vector<Workload> many_tensors_workloads(const std::shared_ptr<Tensors>& t) {
  constexpr std::int64_t kTensors = 1000;
  constexpr std::int64_t kElements = 10000;
  constexpr std::int64_t kChunk = 100;
  // Sets that follow each other, so that none is in the cache when its turn comes.
  const std::int64_t sets = t->count / (kTensors * kElements);
  std::vector<std::shared_ptr<CudaStepTable>> tables;
  auto all = std::make_shared<std::vector<std::vector<StepTensor>>>();
  for (std::int64_t set = 0; set < sets; ++set) {
    std::vector<StepTensor> tensors;
    for (std::int64_t i = 0; i < kTensors; ++i) {
      const std::int64_t begin = (set * kTensors + i) * kElements;
      StepTensor tensor = t->step(DataType::float32, kChunk);
      tensor.residual += begin;
      tensor.gradient.data += begin * 4;
      tensor.gradient.count = kElements;
      tensor.offsets += begin / kChunk;
      tensor.selected.values += begin / kChunk * 4;
      tensor.selected.kept += begin / kChunk;
      tensors.push_back(tensor);
    }
    tables.push_back(table_of(tensors));
    all->push_back(std::move(tensors));
  }
  const double bytes = 12.0 * static_cast<double>(kTensors * kElements);
  std::vector<Workload> workloads;
  workloads.push_back({"select, 1,000 tensors of 10,000, C = 100",
                       bytes,
                       [t, tables](StreamHandle stream) {
                         for (const auto& table : tables) {
                           table->select_and_sweep(stream);
                         }
                       },
                       {},
                       static_cast<int>(sets)});
  workloads.push_back({"copy of as many bytes",
                       bytes,
                       [t, sets](StreamHandle stream) {
                         for (std::int64_t set = 0; set < sets / 2; ++set) {
                           const std::int64_t begin = set * kTensors * kElements * 6;
                           device::cuda::copy(t->result.get() + begin, t->spare.get() + begin,
                                              kTensors * kElements * 6, stream);
                         }
                       },
                       {},
                       static_cast<int>(sets / 2)});
  workloads.push_back({"take back nothing of 1,000 tensors",
                       bytes,
                       [t, tables](StreamHandle stream) {
                         for (const auto& table : tables) table->take_back(stream);
                       },
                       {},
                       static_cast<int>(sets)});
  workloads.push_back({"the same with a new table each",
                       bytes,
                       [t, tables, all](StreamHandle stream) {
                         for (std::size_t i = 0; i < tables.size(); ++i) {
                           // Other rows than before, as these are not uploaded again.
                           (*all)[i].front().beta = 0.3f - (*all)[i].front().beta;
                           tables[i]->assign((*all)[i], stream);
                           tables[i]->select_and_sweep(stream);
                         }
                       },
                       {},
                       static_cast<int>(sets)});
  return workloads;
}

namespace {

constexpr std::int64_t kPackedTensors = 1000;
constexpr std::int64_t kPackedBytes = 100'000'000;

/// Where tensors lie: each behind the last, at a multiple of `alignment`, with room in the buffer.
struct Placement {
  std::int64_t alignment;
  std::byte* tensors;
  std::byte* buffer;
};

/// Sizes over four orders of magnitude, a third of each dtype; `first` is the first tensor's place.
std::vector<CopyTensor> make_copies(const Placement& placement) {
  std::mt19937 generator(7);
  std::uniform_real_distribution<double> exponent(0.0, 4.0);
  constexpr DataType kDtypes[] = {DataType::float32, DataType::float16, DataType::bfloat16};
  std::vector<double> weights;
  double sum = 0.0;
  for (std::int64_t i = 0; i < kPackedTensors; ++i) {
    weights.push_back(std::pow(10.0, exponent(generator)));
    sum += weights.back();
  }
  std::vector<CopyTensor> copies;
  std::int64_t source = 0;
  std::int64_t place = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const DataType dtype = kDtypes[i % 3];
    const auto bytes = static_cast<std::int64_t>(weights[i] / sum * kPackedBytes);
    const std::int64_t count = std::max<std::int64_t>(1, bytes / size_of(dtype));
    const std::int64_t alignment = std::max(placement.alignment, size_of(dtype));
    place = (place + alignment - 1) / alignment * alignment;
    copies.push_back({placement.buffer + place, placement.tensors + source, count, dtype, {}});
    place += count * size_of(dtype);
    source = (source + count * size_of(dtype) + 511) / 512 * 512;
  }
  return copies;
}

struct PackSet {
  std::shared_ptr<CudaCopyTable> pack;
  std::shared_ptr<CudaCopyTable> unpack;
};

/// Packs what lies in `tensors`, and unpacks to the same places in `unpacked`.
PackSet make_pack_set(std::vector<CopyTensor> copies, const std::byte* tensors, std::byte* unpacked,
                      kernels::Scale scale) {
  const device::cuda::Stream stream;
  PackSet set{make_table<CudaCopyTable>(copies.size()), make_table<CudaCopyTable>(copies.size())};
  set.pack->assign(copies, stream.handle());
  for (CopyTensor& copy : copies) {
    copy = {unpacked + (copy.source - tensors), copy.destination, copy.count, copy.dtype, scale};
  }
  set.unpack->assign(copies, stream.handle());
  stream.synchronize();
  return set;
}

/// Each call of a pass takes the next of several sets, which together do not fit into the cache.
void add_pack(std::vector<Workload>& workloads, const std::shared_ptr<Tensors>& t,
              const std::string& suffix, std::int64_t alignment, kernels::Scale scale) {
  constexpr std::int64_t kSetBytes = 101'000'000;
  std::vector<PackSet> sets;
  double bytes = 0.0;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(t->bytes()) / kSetBytes; ++i) {
    const std::int64_t begin = i * kSetBytes / 512 * 512;
    std::byte* const tensors = t->spare.get() + begin;
    const auto copies = make_copies({alignment, tensors, t->result.get() + begin});
    sets.push_back(make_pack_set(copies, tensors, t->unpacked.get() + begin, scale));
    bytes = 0.0;
    for (const CopyTensor& copy : copies) {
      bytes += 2.0 * static_cast<double>(copy.count * size_of(copy.dtype));
    }
  }
  const int calls = static_cast<int>(sets.size());
  const auto pack = [sets](StreamHandle stream) {
    for (const PackSet& set : sets) set.pack->scale_copy(stream);
  };
  const auto unpack = [sets](StreamHandle stream) {
    for (const PackSet& set : sets) set.unpack->scale_copy(stream);
  };
  const auto both = [pack, unpack](StreamHandle stream) {
    pack(stream);
    unpack(stream);
  };
  workloads.push_back({"pack" + suffix, bytes, pack, {}, calls});
  workloads.push_back({"unpack" + suffix, bytes, unpack, pack, calls});
  const auto clear = [t](StreamHandle stream) {
    device::cuda::set_bytes(t->result.get(), 0, t->bytes(), stream);
  };
  workloads.push_back({"unpack of zeros" + suffix, bytes, unpack, clear, calls});
  workloads.push_back({"pack and unpack" + suffix, 2.0 * bytes, both, {}, calls});
}

/// Scaled in float64: what is no float32, float16 or bfloat16.
void add_scaled(std::vector<Workload>& workloads, const std::shared_ptr<Tensors>& t,
                DataType dtype) {
  constexpr std::int64_t kBytes = 100'000'000;
  const CopyTensor tensor{
      t->result.get(), t->spare.get(), kBytes / size_of(dtype), dtype, {1.0, 3.0}};
  const device::cuda::Stream stream;
  const auto table = make_table<CudaCopyTable>(1);
  table->assign({&tensor, 1}, stream.handle());
  stream.synchronize();
  workloads.push_back({fmt::format("one tensor of 100 MB of {}, / 3", to_string(dtype)),
                       2.0 * kBytes,
                       [t, table](StreamHandle handle) { table->scale_copy(handle); },
                       {}});
}

void add_block_a_tensor(std::vector<Workload>& workloads, const std::shared_ptr<Tensors>& t) {
  std::vector<PlainCopy> copies;
  double bytes = 0.0;
  for (const CopyTensor& copy : make_copies({16, t->spare.get(), t->result.get()})) {
    copies.push_back({copy.destination, copy.source, copy.count * size_of(copy.dtype)});
    bytes += 2.0 * static_cast<double>(copies.back().bytes);
  }
  const auto size = copies.size() * sizeof(PlainCopy);
  const std::shared_ptr<std::byte> table(allocate_device(size).release(),
                                         device::cuda::FreeDevice());
  const device::cuda::Stream stream;
  device::cuda::copy(table.get(), copies.data(), size, stream.handle());
  stream.synchronize();
  workloads.push_back({"a block for each tensor, pack",
                       bytes,
                       [t, table, count = static_cast<int>(copies.size())](StreamHandle handle) {
                         copy_block_a_tensor(reinterpret_cast<const PlainCopy*>(table.get()), count,
                                             handle);
                       },
                       {}});
}

}  // namespace

std::vector<Workload> pack_workloads(const std::shared_ptr<Tensors>& t) {
  std::vector<Workload> workloads;
  workloads.push_back({"copy of 100 MB",
                       2.0 * kPackedBytes,
                       [t](StreamHandle stream) {
                         for (int i = 0; i < 3; ++i) {
                           device::cuda::copy(t->result.get() + i * kPackedBytes,
                                              t->spare.get() + i * kPackedBytes, kPackedBytes,
                                              stream);
                         }
                       },
                       {},
                       3});
  add_pack(workloads, t, "", 16, {1.0, 4.0});
  add_pack(workloads, t, ", / 3", 16, {1.0, 3.0});
  add_pack(workloads, t, ", * 0.1 / 3", 16, {0.1, 3.0});
  add_pack(workloads, t, ", not aligned", 1, {1.0, 4.0});
  for (const DataType dtype : {DataType::float64, DataType::int32, DataType::uint8}) {
    add_scaled(workloads, t, dtype);
  }
  add_block_a_tensor(workloads, t);
  return workloads;
}

}  // namespace scalecom::bench
