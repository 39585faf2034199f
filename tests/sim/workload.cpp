#include "tests/sim/workload.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace scalecom::sim {

Workload::Workload(World& world, WorkloadOptions options) : world_(world), options_(options) {
  const auto size = static_cast<std::size_t>(world_.size());
  for (int tensor = 0; tensor < options_.tensors; ++tensor) {
    plans_.push_back(make_plan(tensor));
    places_[plans_.back().name] = plans_.size() - 1;
    expect_calls(plans_.back());
  }
  next_call_.assign(size, std::vector<std::size_t>(plans_.size(), 0));
  open_.assign(size, 0);
  world_.on_completion([this](int rank, const std::string& name) { take_completion(rank, name); });
}

std::size_t Workload::calls_per_rank() const noexcept {
  return plans_.size() * static_cast<std::size_t>(options_.calls);
}

OperationKind Workload::draw_kind() {
  switch (draw_below(world_.random(), 12)) {
    case 0:
    case 1: return OperationKind::all_gather;
    case 2: return OperationKind::broadcast;
    case 3: return OperationKind::barrier;
    case 4: return OperationKind::reduce_scatter;
    case 5: return OperationKind::all_to_all;
    default: return OperationKind::all_reduce;
  }
}

Workload::Plan Workload::make_plan(int tensor) {
  Plan plan;
  plan.name =
      "layer" + std::to_string(tensor) + (tensor % 3 == 0 ? ".bias" : ".some.longer.weight");
  TensorSignature signature;
  signature.kind = draw_kind();
  if (signature.kind != OperationKind::barrier)
    signature.shape = {1 + draw_below(world_.random(), 1000), 3};
  if (signature.kind == OperationKind::broadcast)
    signature.root = draw_below(world_.random(), world_.size());
  if (signature.kind == OperationKind::all_reduce)
    signature.priority = draw_below(world_.random(), 5) - 2;
  if (signature.kind == OperationKind::all_reduce && happens(world_.random(), 0.6)) {
    signature.compression.mode = CompressionMode::cyclic;
    signature.first_step =
        happens(world_.random(), 0.2) ? 1 + draw_below(world_.random(), 1000) : 0;
  }
  const auto size = static_cast<std::size_t>(world_.size());
  for (int call = 0; call < options_.calls; ++call) {
    if (call > 0) vary(signature, true);
    Call next;
    next.signature = signature;
    next.is_odd.assign(size, false);
    if (size > 1 && happens(world_.random(), options_.mismatches)) {
      next.odd = make_odd(signature);
      const int odd_ranks = 1 + draw_below(world_.random(), world_.size() - 1);
      for (int i = 0; i < odd_ranks; ++i) next.is_odd[static_cast<std::size_t>(i)] = true;
      std::shuffle(next.is_odd.begin(), next.is_odd.end(), world_.random());
    }
    const bool is_equal = happens(world_.random(), 0.5);
    const std::size_t extents = size * first_extents_of_rank(signature.kind, world_.size());
    for (std::size_t i = 0; i < extents; ++i) {
      next.first_extents.push_back(is_equal ? 7 : draw_below(world_.random(), 20));
    }
    plan.calls.push_back(std::move(next));
  }
  return plan;
}

void Workload::vary(TensorSignature& signature, bool may_restart) {
  if (!signature.shape.empty() && happens(world_.random(), options_.shape_changes)) {
    signature.shape[1] = 1 + draw_below(world_.random(), 50);
  }
  const bool is_compressed = signature.compression.mode != CompressionMode::none;
  if (may_restart && is_compressed && happens(world_.random(), options_.first_step_changes)) {
    signature.first_step = draw_below(world_.random(), 100'000);
  }
  if (signature.kind == OperationKind::all_reduce &&
      happens(world_.random(), options_.priority_changes)) {
    signature.priority = draw_below(world_.random(), 5) - 2;
  }
}

TensorSignature Workload::make_odd(TensorSignature signature) {
  switch (draw_below(world_.random(), 8)) {
    case 0: signature.dtype = DataType::float64; break;
    case 1: signature.op = ReduceOp::max; break;
    case 2: signature.prescale = 0.5; break;
    case 3: signature.compression.rate = 7; break;
    case 4: signature.shape.push_back(2); break;
    case 5:
      signature.kind = signature.kind == OperationKind::all_gather ? OperationKind::reduce_scatter
                                                                   : OperationKind::all_gather;
      break;
    case 6: signature.priority += 1; break;
    default: signature.root += 1;
  }
  return signature;
}

TensorSignature Workload::signature_of(const Call& call, int rank) const {
  const auto r = static_cast<std::size_t>(rank);
  TensorSignature signature = call.is_odd[r] ? call.odd : call.signature;
  if (signature.kind == OperationKind::all_gather && !call.first_extents.empty()) {
    signature.shape[0] = call.first_extents[r];
  } else if (const auto splits = splits_of(call, rank); !splits.empty()) {
    signature.shape[0] = std::reduce(splits.begin(), splits.end());
  }
  return signature;
}

std::vector<std::int64_t> Workload::splits_of(const Call& call, int rank) const {
  if (call.signature.kind != OperationKind::all_to_all) return {};
  const auto row = call.first_extents.begin() + static_cast<std::ptrdiff_t>(rank) * world_.size();
  return {row, row + world_.size()};
}

// The reference for steps: counts on from first_step, only what is agreed on.
void Workload::expect_calls(const Plan& plan) {
  std::int64_t first = -1;
  std::int64_t next = 0;
  for (const Call& call : plan.calls) {
    ExpectedCall expected;
    expected.is_mismatch = std::count(call.is_odd.begin(), call.is_odd.end(), true) > 0;
    expected.first_extents = call.first_extents;
    if (!expected.is_mismatch && call.signature.compression.mode != CompressionMode::none) {
      if (first != call.signature.first_step) first = next = call.signature.first_step;
      expected.step = next++;
    }
    world_.expect(plan.name, std::move(expected));
  }
}

void Workload::start() {
  for (int rank = 0; rank < world_.size(); ++rank) {
    const Duration late = rank == options_.late_rank ? options_.late_by : Duration{};
    world_.at(rank, late + world_.random_duration(options_.gap_max),
              [this, rank] { start_step(rank); });
  }
}

void Workload::start_step(int rank) {
  std::vector<std::size_t> order(plans_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (happens(world_.random(), 0.8)) std::shuffle(order.begin(), order.end(), world_.random());
  open_[static_cast<std::size_t>(rank)] = order.size();
  Duration after{};
  for (const std::size_t tensor : order) {
    if (!happens(world_.random(), options_.bursts))
      after += world_.random_duration(options_.gap_max);
    world_.at(rank, after, [this, rank, tensor] { submit_next(rank, tensor); });
  }
}

void Workload::submit_next(int rank, std::size_t tensor) {
  const Plan& plan = plans_[tensor];
  const std::size_t call = next_call_[static_cast<std::size_t>(rank)][tensor]++;
  world_.submit(rank, plan.name, signature_of(plan.calls[call], rank),
                splits_of(plan.calls[call], rank));
}

void Workload::take_completion(int rank, const std::string& name) {
  const auto r = static_cast<std::size_t>(rank);
  const auto place = places_.find(name);
  if (place == places_.end()) return;
  const std::size_t tensor = place->second;
  const auto calls = static_cast<std::size_t>(options_.calls);
  if (options_.is_pipelined) {
    if (next_call_[r][tensor] >= calls) return;
    if (happens(world_.random(), options_.bursts)) {
      submit_next(rank, tensor);  // The name is used again at once.
    } else {
      world_.at(rank, world_.random_duration(options_.gap_max),
                [this, rank, tensor] { submit_next(rank, tensor); });
    }
    return;
  }
  if (--open_[r] == 0 && next_call_[r][tensor] < calls) {
    world_.at(rank, world_.random_duration(options_.gap_max), [this, rank] { start_step(rank); });
  }
}

}  // namespace scalecom::sim
