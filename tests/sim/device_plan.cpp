#include "tests/sim/device_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "collective/device/device_lane.hpp"
#include "tests/sim/device_reference.hpp"
#include "tests/sim/random.hpp"
#include "tests/support/exact_values.hpp"

namespace scalecom::sim {
namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

DataType draw_dtype(Random& random) {
  return pick(random, {DataType::float32, DataType::float16, DataType::bfloat16});
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

// Each apart, or some together, in any order.
std::vector<std::size_t> draw_hosts(Random& random, int size) {
  const bool are_apart = random() % 4 == 0;
  std::vector<std::size_t> hosts{0};
  std::size_t next = 1;
  while (std::ssize(hosts) < size) {
    const std::size_t host = are_apart || random() % 3 == 0 ? next : random() % next;
    next = std::max(next, host + 1);
    hosts.push_back(host);
  }
  return hosts;
}

/// What the tensors of a call have in common.
enum class CallKind {
  dense,
  dense_of_one,
  compressed,
  all_gather,
  broadcast,
  reduce_scatter,
  all_to_all
};

CallKind draw_kind(Random& random, DeviceFault fault) {
  using enum CallKind;
  if (fault == DeviceFault::shortage) return pick(random, {dense, dense, broadcast});
  return pick(random, {dense, dense_of_one, compressed, compressed, compressed, all_gather,
                       broadcast, reduce_scatter, all_to_all});
}

OperationKind operation_of(CallKind kind) {
  switch (kind) {
    case CallKind::all_gather: return OperationKind::all_gather;
    case CallKind::broadcast: return OperationKind::broadcast;
    case CallKind::reduce_scatter: return OperationKind::reduce_scatter;
    case CallKind::all_to_all: return OperationKind::all_to_all;
    default: return OperationKind::all_reduce;
  }
}

void make_exchange(Random& random, PlannedTensor& tensor, CallKind kind) {
  TensorSignature& signature = tensor.signature;
  signature.kind = operation_of(kind);
  tensor.is_in_place = kind == CallKind::broadcast;
  if (kind == CallKind::reduce_scatter) {
    signature.shape = {draw(random, 0, 30), draw(random, 1, 20)};
    return;
  }
  signature.op = ReduceOp::sum;
  signature.prescale = 1.0;
  if (kind == CallKind::broadcast) return;
  signature.shape = {1, draw(random, 1, 40)};  // The rows are each rank's affair.
}

void draw_call(Random& random, DevicePlan& plan) {
  std::vector<std::size_t>& call = plan.calls.emplace_back();
  const auto mode = pick(
      random, {CompressionMode::cyclic, CompressionMode::sharded, CompressionMode::hierarchical});
  const CallKind kind = draw_kind(random, plan.fault);
  const bool is_short = plan.fault == DeviceFault::shortage;
  const auto root = static_cast<std::int32_t>(draw(random, 0, plan.size - 1));
  std::int64_t left = draw(random, is_short ? 2 : 1, 4);
  if (kind == CallKind::dense_of_one) left = 1;
  for (; left > 0; --left) {
    call.push_back(plan.tensors.size());
    PlannedTensor tensor = draw_tensor(random, fmt::format("t{}", plan.tensors.size()));
    TensorSignature& signature = tensor.signature;
    if (kind == CallKind::compressed) compress(random, tensor, mode);
    if (kind == CallKind::dense_of_one && random() % 2 == 0) signature.prescale = 1.0;
    if (is_short) signature.dtype = DataType::float32;
    if (operation_of(kind) != OperationKind::all_reduce) make_exchange(random, tensor, kind);
    if (kind == CallKind::broadcast) {
      const bool is_of_another = !is_short && random() % 4 == 0;
      signature.root = is_of_another ? (root + 1) % plan.size : root;
    }
    plan.tensors.push_back(std::move(tensor));
  }
}

// Of its tensor.
std::int64_t rows_from(const DevicePlan& plan, std::span<const std::int64_t> rows,
                       std::size_t rank) {
  const std::size_t each = rows.size() / index(plan.size);
  const auto own = rows.subspan(each * rank, each);
  return std::reduce(own.begin(), own.end());
}

void draw_inputs(Random& random, const DevicePlan& plan, const TensorSignature& signature,
                 PlannedTensor::Step& made) {
  const std::size_t extents = first_extents_of_rank(signature.kind, plan.size);
  for (std::size_t left = extents * index(plan.size); left > 0; --left) {
    made.rows.push_back(random() % 3 == 0 ? 0 : draw(random, 1, 4));
  }
  for (std::size_t rank = 0; rank < index(plan.size); ++rank) {
    std::int64_t count = count_of(signature.shape);
    if (extents > 0) count *= rows_from(plan, made.rows, rank);
    made.inputs.push_back(
        test::exact_values(signature.dtype, count, static_cast<unsigned>(random())));
  }
}

// One rank has a NaN.
void spoil(Random& random, DataType dtype, std::vector<Bytes>& inputs) {
  Bytes& input = inputs[random() % inputs.size()];
  const auto bytes = size_of(dtype);
  std::fill_n(input.begin() + draw(random, 0, std::ssize(input) / bytes - 1) * bytes, bytes,
              std::byte{0xFF});
}

Bytes joined(const std::vector<Bytes>& parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

void draw_step(Random& random, const DevicePlan& plan, PlannedTensor& tensor, Residuals& left) {
  const std::size_t step = tensor.steps.size();
  const TensorSignature& signature = tensor.signature;
  PlannedTensor::Step& made = tensor.steps.emplace_back();
  draw_inputs(random, plan, signature, made);
  switch (signature.kind) {
    case OperationKind::all_gather: made.results = {joined(made.inputs)}; return;
    case OperationKind::broadcast: made.results = {made.inputs[index(signature.root)]}; return;
    case OperationKind::reduce_scatter:
      made.results = scattered_results(signature, made.inputs);
      return;
    case OperationKind::all_to_all:
      made.results = exchanged_results(signature, made.rows, made.inputs);
      return;
    default: break;
  }
  if (!is_sparse(signature, static_cast<std::int64_t>(step))) {
    made.results = {dense_result(signature, made.inputs)};
    return;
  }
  if (random() % 8 == 0) spoil(random, signature.dtype, made.inputs);
  made.results = {compressed_result(signature, step, plan.host_of_rank, made.inputs, left)};
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
      agreed.signature.shape.front() = rows_from(*this, agreed.first_extents, index(rank));
    }
  }
  return made;
}

std::string DevicePlan::description() const {
  constexpr std::array kFaults{"no fault",       "too little memory", "a silent rank",
                               "a failing rank", "no more memory",    "a device that fails"};
  return fmt::format("seed {} (again with --rng-seed {}): {} ranks on hosts {}{}, {} calls, {}",
                     seed, seed, size, fmt::join(host_of_rank, " "),
                     is_over_nccl() ? " over NCCL" : "", call_count(),
                     kFaults[static_cast<std::size_t>(fault)]);
}

DevicePlan make_device_plan(std::uint64_t seed, DeviceFault fault) {
  Random random(seed * 7919 + static_cast<std::uint64_t>(fault));
  const bool needs_others = fault == DeviceFault::silent_rank || fault == DeviceFault::failing_rank;
  DevicePlan plan;
  plan.seed = seed;
  plan.fault = fault;
  plan.size = needs_others ? pick(random, {2, 3, 4}) : pick(random, {1, 2, 2, 3, 3, 4});
  plan.host_of_rank = draw_hosts(random, plan.size);
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
  for (std::int64_t left = draw(random, 3, 5); left > 0; --left) draw_call(random, plan);
  if (!plan.is_over_nccl() && random() % 3 > 0)
    plan.measures_before = index(draw(random, 0, std::ssize(plan.calls)));
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
