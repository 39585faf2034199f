#include "tests/sim/training.hpp"

#include <algorithm>
#include <utility>

namespace scalecom::sim {

Training::Training(World& world, TrainingOptions options) : world_(world), options_(options) {
  make_steps();
  expect_calls();
  progress_.resize(static_cast<std::size_t>(world_.size()));
  world_.on_completion([this](int rank, const std::string& name) { take_completion(rank, name); });
}

void Training::make_steps() {
  for (int tensor = 0; tensor < options_.tensors; ++tensor) {
    Call call;
    call.name = "layer" + std::to_string(tensor) + ".weight";
    call.signature.shape = {1 + draw_below(world_.random(), 1000), 3};
    call.signature.priority = draw_below(world_.random(), options_.tensors);
    if (happens(world_.random(), options_.compressed))
      call.signature.compression.mode = CompressionMode::cyclic;
    usual_.push_back(std::move(call));
  }
  steps_.resize(static_cast<std::size_t>(options_.steps));
  for (Step& step : steps_) step.groups.push_back({});
  for (std::size_t number = 0; number < steps_.size(); ++number) {
    Step& step = steps_[number];
    step.groups[0].insert(step.groups[0].begin(), usual_.begin(), usual_.end());
    if (happens(world_.random(), options_.deviations)) deviate(step, number);
  }
}

void Training::deviate(Step& step, std::size_t number) {
  std::vector<Call>& calls = step.groups[0];
  const int kinds = static_cast<int>(Deviation::last);
  const auto deviation = static_cast<Deviation>(1 + draw_below(world_.random(), kinds));
  ++deviations_[deviation];
  const auto one = static_cast<std::size_t>(draw_below(world_.random(), options_.tensors));
  Call extra;
  extra.name = "extra" + std::to_string(draw_below(world_.random(), 2));
  extra.signature.shape = {1};
  switch (deviation) {
    case Deviation::none: break;
    case Deviation::other_tensor: calls.push_back(extra); break;
    case Deviation::lone_tensor: add_lone_tensor(number); break;
    case Deviation::changed_shape:
      usual_[one].signature.shape[1] = 4 + draw_below(world_.random(), 100);
      calls[one].signature = usual_[one].signature;
      break;
    case Deviation::mismatch:
      calls[one].odd_rank = draw_below(world_.random(), world_.size());
      break;
    case Deviation::changed_first_step:
      usual_[one].signature.first_step = draw_below(world_.random(), 1000);
      calls[one].signature = usual_[one].signature;
      break;
    case Deviation::changed_priority:
      usual_[one].signature.priority += 1 + draw_below(world_.random(), 3);
      calls[one].signature = usual_[one].signature;
      break;
    case Deviation::restart: step.restarts.push_back(usual_[one].name); break;
    case Deviation::barrier:
      extra.name = "barrier";
      extra.signature = {};
      extra.signature.kind = OperationKind::barrier;
      calls.push_back(extra);
      break;
    case Deviation::gather:
      extra.name = "gather";
      extra.signature.kind = OperationKind::all_gather;
      calls.push_back(extra);
      break;
    case Deviation::missing_tensor:
      if (options_.tensors > 1) calls.erase(calls.begin() + static_cast<std::ptrdiff_t>(one));
      break;
    case Deviation::chained:
      if (options_.tensors > 1) {
        step.groups.insert(step.groups.begin(), {calls[one]});
        step.groups[1].erase(step.groups[1].begin() + static_cast<std::ptrdiff_t>(one));
      }
      break;
    case Deviation::pause:
    case Deviation::pause_amid:
      step.paused_rank = draw_below(world_.random(), world_.size());
      step.is_paused_amid = deviation == Deviation::pause_amid;
      step.pause = world_.random_duration(options_.pause_max);
  }
}

void Training::add_lone_tensor(std::size_t number) {
  Call lone;
  lone.name = "lone" + std::to_string(number);
  lone.is_waited_for = false;
  const int rank = draw_below(world_.random(), world_.size());
  const std::size_t later = std::min(
      number + 1 + static_cast<std::size_t>(draw_below(world_.random(), 8)), steps_.size() - 1);
  lone.only_rank = rank;
  steps_[number].groups[0].push_back(lone);
  lone.only_rank = -1;
  lone.except_rank = rank;
  steps_[later].groups[0].push_back(lone);
}

// The reference for steps: counts on from first_step, only what is agreed on.
void Training::expect_calls() {
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> counts;  // first, next
  for (const Step& step : steps_) {
    for (const std::string& name : step.restarts) counts.erase(name);
    for (const auto& group : step.groups) {
      for (const Call& call : group) {
        if (call.except_rank >= 0) continue;  // The same call as the lone rank's.
        ++calls_;
        ExpectedCall expected;
        expected.is_mismatch = call.odd_rank >= 0 && world_.size() > 1;
        if (call.signature.kind == OperationKind::all_gather) {
          expected.first_extents.assign(static_cast<std::size_t>(world_.size()), 1);
        }
        if (!expected.is_mismatch && call.signature.compression.mode != CompressionMode::none) {
          const std::int64_t first = call.signature.first_step;
          const auto [count, is_new] = counts.try_emplace(call.name, first, first);
          if (count->second.first != first) count->second = {first, first};
          expected.step = count->second.second++;
        }
        world_.expect(call.name, std::move(expected));
      }
    }
  }
}

void Training::start() {
  for (int rank = 0; rank < world_.size(); ++rank) {
    world_.at(rank, world_.random_duration(options_.gap_max), [this, rank] { start_step(rank); });
  }
}

void Training::start_step(int rank) {
  Progress& progress = progress_[static_cast<std::size_t>(rank)];
  if (progress.step == steps_.size()) return;
  progress.group = 0;
  for (const std::string& name : steps_[progress.step].restarts) world_.restart_steps(rank, name);
  start_group(rank);
}

void Training::start_group(int rank) {
  Progress& progress = progress_[static_cast<std::size_t>(rank)];
  const Step& step = steps_[progress.step];
  const std::vector<Call>& group = step.groups[progress.group];
  std::vector<const Call*> calls;
  for (const Call& call : group) {
    if ((call.only_rank >= 0 && call.only_rank != rank) || call.except_rank == rank) continue;
    calls.push_back(&call);
    if (!call.is_waited_for) continue;
    ++progress.open;
    ++progress.waited_for[call.name];
  }
  if (options_.is_shuffled) std::shuffle(calls.begin(), calls.end(), world_.random());
  Duration after{};
  const bool has_gaps = happens(world_.random(), 0.5);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (has_gaps) after += world_.random_duration(options_.gap_max);
    const bool is_pause = step.is_paused_amid ? i == calls.size() / 2 : i == 0;
    if (rank == step.paused_rank && is_pause) after += step.pause;
    world_.at(rank, after, [this, rank, call = calls[i]] { submit(rank, *call); });
  }
}

void Training::submit(int rank, const Call& call) {
  TensorSignature signature = call.signature;
  if (call.odd_rank == rank && world_.size() > 1) signature.shape.push_back(5);
  world_.submit(rank, call.name, std::move(signature));
}

void Training::take_completion(int rank, const std::string& name) {
  Progress& progress = progress_[static_cast<std::size_t>(rank)];
  const auto waited = progress.waited_for.find(name);
  if (waited == progress.waited_for.end()) return;
  progress.waited_for.erase(waited);
  if (--progress.open > 0) return;
  const bool is_last = ++progress.group == steps_[progress.step].groups.size();
  if (is_last) ++progress.step;
  const Duration after = is_last ? world_.random_duration(options_.compute_max) : Duration{};
  world_.at(rank, after, [this, rank, is_last] { is_last ? start_step(rank) : start_group(rank); });
}

}  // namespace scalecom::sim
