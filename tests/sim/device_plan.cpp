#include "tests/sim/device_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "collective/device/device_lane.hpp"
#include "compress/offset_codec.hpp"
#include "runtime/tensor_scales.hpp"
#include "sparse/parts.hpp"
#include "sparse/value_limit.hpp"
#include "tests/support/exact_values.hpp"
#include "tests/support/step_on_host.hpp"

namespace scalecom::sim {
namespace {

using Random = std::mt19937_64;
using Residuals = std::vector<std::vector<float>>;

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

std::int64_t draw(Random& random, std::int64_t from, std::int64_t to) {
  return from + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(to - from + 1));
}

template <class Value>
Value pick(Random& random, std::initializer_list<Value> values) {
  return *(values.begin() + draw(random, 0, std::ssize(values) - 1));
}

DataType draw_dtype(Random& random) {
  return pick(random, {DataType::float32, DataType::float16, DataType::bfloat16});
}

// In the order of ranks, as the collectives of a run do.
Bytes sum_of(std::span<const Bytes> parts, DataType dtype) {
  Bytes sum = parts.front();
  for (const Bytes& part : parts.subspan(1)) {
    kernels::reduce(sum.data(), sum.data(), part.data(), std::ssize(sum) / size_of(dtype), dtype,
                    ReduceOp::sum);
  }
  return sum;
}

void scale(Bytes& values, DataType dtype, kernels::Scale by) {
  kernels::scale_copy(values.data(), values.data(), std::ssize(values) / size_of(dtype), dtype, by);
}

Bytes dense_result(const TensorSignature& signature, const std::vector<Bytes>& inputs) {
  std::vector<Bytes> scaled = inputs;
  for (Bytes& input : scaled) scale(input, signature.dtype, input_scale(signature));
  Bytes result = sum_of(scaled, signature.dtype);
  scale(result, signature.dtype, output_scale(signature, static_cast<int>(inputs.size())));
  return result;
}

/// The chunks of a compressed tensor with one leader, on all ranks.
class Shard {
 public:
  Shard(const TensorSignature& signature, int shard, int shards, std::size_t size)
      : signature_(signature) {
    const std::int64_t all = count_of(signature.shape);
    const std::int64_t rate = signature.compression.rate;
    const std::int64_t from = selected_count(part_start(all, shard, shards), rate);
    const std::int64_t to = selected_count(part_start(all, shard + 1, shards), rate);
    first_ = from * rate;
    count_ = std::max<std::int64_t>(std::min(to * rate, all) - first_, 0);
    chunks_ = to - from;
    offsets_.resize(index(chunks_));
    kept_.assign(size, std::vector<float>(index(chunks_)));
    values_.assign(size, Bytes(index(chunks_ * size_of(signature.compression.values))));
    reduced_.resize(index(chunks_));
  }

  std::int64_t sweep(const std::vector<Bytes>& inputs, Residuals& residuals, std::size_t leader) {
    std::int64_t nonfinite = 0;
    if (count_ == 0) return nonfinite;
    StepTensor led = row(inputs, residuals, leader);
    led.nonfinite = &nonfinite;
    test::select_on_host(led);
    for (std::size_t rank = 0; rank < inputs.size(); ++rank) {
      if (rank == leader) continue;
      StepTensor other = row(inputs, residuals, rank);
      other.nonfinite = &nonfinite;
      test::gather_on_host(other);
    }
    const DataType dtype = signature_.compression.values;
    const Bytes sum = sum_of(values_, dtype);
    kernels::widen(reduced_.data(), sum.data(), dtype, chunks_);
    const auto bytes = reinterpret_cast<std::byte*>(reduced_.data());
    kernels::scale_copy(bytes, bytes, chunks_, DataType::float32,
                        output_scale(signature_, static_cast<int>(inputs.size())));
    return nonfinite;
  }

  void fill(const std::vector<Bytes>& inputs, Residuals& residuals, float mark, Bytes& result) {
    for (std::size_t rank = 0; rank < inputs.size() && count_ > 0; ++rank) {
      StepTensor one = row(inputs, residuals, rank);
      one.mark = &mark;
      one.result = result.data() + first_ * size_of(signature_.dtype);
      one.reduced = reduced_.data();
      test::fill_on_host(one);
    }
  }

 private:
  StepTensor row(const std::vector<Bytes>& inputs, Residuals& residuals, std::size_t rank) {
    StepTensor one;
    one.residual = residuals[rank].data() + first_;
    one.gradient = {inputs[rank].data() + first_ * size_of(signature_.dtype), signature_.dtype,
                    count_, static_cast<float>(input_scale(signature_).multiply)};
    one.beta = static_cast<float>(signature_.compression.beta);
    one.chunk = signature_.compression.rate;
    one.offsets = offsets_.data();
    one.selected = {values_[rank].data(), signature_.compression.values,
                    value_limit(signature_.compression.values, static_cast<int>(inputs.size())),
                    kept_[rank].data()};
    return one;
  }

  const TensorSignature& signature_;
  std::int64_t first_ = 0;
  std::int64_t count_ = 0;
  std::int64_t chunks_ = 0;
  std::vector<std::uint16_t> offsets_;
  std::vector<std::vector<float>> kept_;
  std::vector<Bytes> values_;
  std::vector<float> reduced_;
};

Bytes compressed_result(const TensorSignature& signature, std::size_t step,
                        const std::vector<Bytes>& inputs, Residuals& residuals) {
  const std::size_t size = inputs.size();
  const std::size_t turn = step % size;
  const bool is_cyclic = signature.compression.mode == CompressionMode::cyclic;
  const std::size_t shards = is_cyclic ? 1 : size;
  std::vector<Shard> all;
  std::int64_t nonfinite = 0;
  for (std::size_t shard = 0; shard < shards; ++shard) {
    all.emplace_back(signature, static_cast<int>(shard), static_cast<int>(shards), size);
    const std::size_t leader = is_cyclic ? turn : (shard + size - turn) % size;
    nonfinite += all.back().sweep(inputs, residuals, leader);
  }
  Bytes result(inputs.front().size());
  for (Shard& shard : all) shard.fill(inputs, residuals, nonfinite > 0 ? 1.0f : 0.0f, result);
  return result;
}

PlannedTensor draw_tensor(Random& random, std::string name) {
  PlannedTensor tensor;
  tensor.name = std::move(name);
  tensor.signature.dtype = draw_dtype(random);
  tensor.signature.device = DeviceKind::cuda;
  tensor.signature.shape = {draw(random, 1, 500)};
  tensor.signature.op = pick(random, {ReduceOp::sum, ReduceOp::average});
  tensor.signature.prescale = pick(random, {1.0, 1.0, 0.5});
  tensor.is_in_place = random() % 2 == 0;
  tensor.stream = random() % 2;
  return tensor;
}

void compress(Random& random, PlannedTensor& tensor, CompressionMode mode) {
  Compression& compression = tensor.signature.compression;
  compression.mode = mode;
  compression.rate = pick<std::int64_t>(random, {1, 3, 16, 300});
  compression.beta = pick(random, {1.0, 0.25});
  compression.warmup_steps = draw(random, 0, 1);
  compression.values = draw_dtype(random);
}

void draw_call(Random& random, DevicePlan& plan) {
  std::vector<std::size_t>& call = plan.calls.emplace_back();
  const auto mode = pick(random, {CompressionMode::cyclic, CompressionMode::sharded});
  const bool is_short = plan.fault == DeviceFault::shortage;
  // Dense of several, dense of one, compressed, all-gather.
  const std::int64_t kind = is_short ? 0 : draw(random, 0, 5);
  const bool is_gather = kind > 3;
  const bool is_one = kind == 1 || is_gather;
  for (std::int64_t left = is_one ? 1 : draw(random, 2, 4); left > 0; --left) {
    call.push_back(plan.tensors.size());
    PlannedTensor tensor = draw_tensor(random, fmt::format("t{}", plan.tensors.size()));
    TensorSignature& signature = tensor.signature;
    if (kind == 2 || kind == 3) compress(random, tensor, mode);
    if (kind == 1 && random() % 2 == 0) signature.prescale = 1.0;
    if (is_short) signature.dtype = DataType::float32;
    if (is_gather) {
      signature.kind = OperationKind::all_gather;
      signature.op = ReduceOp::sum;
      signature.prescale = 1.0;
      signature.shape = {1, draw(random, 1, 40)};
      tensor.is_in_place = false;
    }
    plan.tensors.push_back(std::move(tensor));
  }
}

void draw_step(Random& random, const DevicePlan& plan, PlannedTensor& tensor, Residuals& left) {
  const std::size_t step = tensor.steps.size();
  const TensorSignature& signature = tensor.signature;
  const bool is_gather = signature.kind == OperationKind::all_gather;
  PlannedTensor::Step& made = tensor.steps.emplace_back();
  for (int rank = 0; rank < plan.size; ++rank) {
    std::int64_t count = count_of(signature.shape);
    if (is_gather) count *= made.rows.emplace_back(draw(random, 0, 4));
    made.inputs.push_back(
        test::exact_values(signature.dtype, count, static_cast<unsigned>(random())));
  }
  if (is_gather) {
    for (const Bytes& part : made.inputs) {
      made.result.insert(made.result.end(), part.begin(), part.end());
    }
  } else if (is_sparse(signature, static_cast<std::int64_t>(step))) {
    if (random() % 8 == 0) {  // One rank has a NaN.
      Bytes& input = made.inputs[random() % made.inputs.size()];
      const auto bytes = size_of(signature.dtype);
      std::fill_n(input.begin() + draw(random, 0, std::ssize(input) / bytes - 1) * bytes, bytes,
                  std::byte{0xFF});
    }
    made.result = compressed_result(signature, step, made.inputs, left);
  } else {
    made.result = dense_result(signature, made.inputs);
  }
}

std::size_t largest_buffer(const DevicePlan& plan) {
  std::int64_t largest = 0;
  for (const auto& call : plan.calls) {
    std::int64_t bytes = 0;
    for (const std::size_t place : call) {
      const TensorSignature& signature = plan.tensors[place].signature;
      bytes += DeviceLane::slot_bytes(count_of(signature.shape) * size_of(signature.dtype));
    }
    largest = std::max(largest, bytes);
  }
  return index(largest);
}

}  // namespace

Agreement DevicePlan::agreement(std::size_t number, int rank) const {
  Agreement made;
  made.sequence = number + 1;
  const std::size_t step = step_of(number);
  for (const std::size_t place : call(number)) {
    const PlannedTensor& tensor = tensors[place];
    AgreedTensor& agreed = made.tensors.emplace_back();
    agreed.name = tensor.name;
    agreed.signature = tensor.signature;
    const bool is_compressed = tensor.signature.compression.mode != CompressionMode::none;
    if (is_compressed) agreed.step = static_cast<std::int64_t>(step);
    agreed.first_extents = tensor.steps[step].rows;
    if (!agreed.first_extents.empty()) {
      agreed.signature.shape.front() = agreed.first_extents[index(rank)];
    }
  }
  return made;
}

std::string DevicePlan::description() const {
  constexpr std::array kFaults{"no fault", "too little memory", "a silent rank", "a failing rank"};
  return fmt::format("seed {} (again with --rng-seed {}): {} ranks{}, {} calls, {}", seed, seed,
                     size, is_over_nccl() ? " over NCCL" : "", call_count(),
                     kFaults[static_cast<std::size_t>(fault)]);
}

DevicePlan make_device_plan(std::uint64_t seed, DeviceFault fault) {
  Random random(seed * 7919 + static_cast<std::uint64_t>(fault));
  const bool needs_others = fault == DeviceFault::silent_rank || fault == DeviceFault::failing_rank;
  DevicePlan plan;
  plan.seed = seed;
  plan.fault = fault;
  plan.size = needs_others ? pick(random, {2, 3, 4}) : pick(random, {1, 2, 2, 3, 3, 4});
  plan.steps = index(draw(random, 4, 8));
  plan.threshold_bytes = pick<std::int64_t>(random, {0, 2000, 1 << 20, 1 << 20});
  plan.health_steps = pick<std::int64_t>(random, {0, 2, 3});
  plan.ahead_max = index(draw(random, 1, 8));
  plan.turns = index(draw(random, 1, 2));
  plan.is_grouped = random() % 2 == 0;
  plan.ends_at_once = random() % 2 == 0;
  if (fault == DeviceFault::shortage) {
    plan.threshold_bytes = 1 << 20;
    plan.ahead_max = 8;
  }
  for (std::int64_t left = draw(random, 2, 4); left > 0; --left) draw_call(random, plan);
  plan.free_bytes = largest_buffer(plan) * index(draw(random, 2, 5)) / 2;
  for (PlannedTensor& tensor : plan.tensors) {
    const auto count = index(count_of(tensor.signature.shape));
    Residuals residuals(index(plan.size), std::vector<float>(count));
    for (std::size_t step = 0; step < plan.steps; ++step) {
      draw_step(random, plan, tensor, residuals);
    }
    if (tensor.signature.compression.mode != CompressionMode::none) {
      tensor.residuals = std::move(residuals);
    }
  }
  return plan;
}

}  // namespace scalecom::sim
