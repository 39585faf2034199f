#include "tests/sim/uneven.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <utility>

namespace scalecom::sim {
namespace {

std::size_t index(int value) { return static_cast<std::size_t>(value); }

bool has_own_extent(OperationKind kind) { return first_extents_of_rank(kind, 1) > 0; }

}  // namespace

Uneven::Uneven(World& world, UnevenOptions options) : world_(world), options_(options) {
  for (int place = 0; place < options_.tensors; ++place) tensors_.push_back(make_tensor(place));
  for (int epoch = 0; epoch < options_.epochs; ++epoch) make_epoch();
  progress_.resize(index(world_.size()));
  expect_calls();
  world_.on_completion([this](int rank, const std::string&) { take_completion(rank); });
  world_.on_joined([this](int rank, int last_rank) { take_end(rank, last_rank); });
}

Uneven::Tensor Uneven::make_tensor(int place) {
  Tensor tensor;
  tensor.name = fmt::format("tensor{}", place);
  TensorSignature& signature = tensor.signature;
  if (!options_.has_all_reduces_only) {
    constexpr std::array kKinds = {OperationKind::all_reduce,     OperationKind::all_gather,
                                   OperationKind::broadcast,      OperationKind::barrier,
                                   OperationKind::reduce_scatter, OperationKind::all_to_all};
    signature.kind = kKinds[index(draw_below(world_.random(), static_cast<int>(kKinds.size())))];
  }
  if (signature.kind != OperationKind::barrier)
    signature.shape = {1 + draw_below(world_.random(), 1000), 3};
  if (signature.kind == OperationKind::all_reduce && happens(world_.random(), 0.5)) {
    signature.compression.mode = CompressionMode::cyclic;
  }
  return tensor;
}

void Uneven::make_epoch() {
  std::vector<int>& steps = steps_.emplace_back(index(world_.size()));
  const int even = draw_below(world_.random(), options_.steps_max);
  for (int& of_rank : steps) {
    of_rank = options_.is_nearly_even ? std::max(0, even + draw_below(world_.random(), 3) - 1)
                                      : draw_below(world_.random(), options_.steps_max + 1);
  }
}

// Of the rank alone.
std::vector<std::int64_t> Uneven::first_extents_of(const Tensor& tensor, int rank, int step) const {
  std::vector<std::int64_t> extents;
  const std::size_t count = first_extents_of_rank(tensor.signature.kind, world_.size());
  for (std::size_t i = 0; i < count; ++i) {
    extents.push_back(1 + (rank + step + static_cast<int>(i)) % 4);
  }
  return extents;
}

// Who has most steps never is without data for what it is the root of.
TensorSignature Uneven::signature_at(const Tensor& tensor, std::size_t epoch) const {
  TensorSignature signature = tensor.signature;
  if (signature.kind == OperationKind::broadcast) {
    const std::vector<int>& steps = steps_[epoch];
    signature.root = static_cast<std::int32_t>(std::ranges::max_element(steps) - steps.begin());
  }
  return signature;
}

void Uneven::expect_calls() {
  std::map<std::string, std::int64_t> counts;
  for (std::size_t epoch = 0; epoch < steps_.size(); ++epoch) {
    const int longest = *std::ranges::max_element(steps_[epoch]);
    for (int step = 0; step < longest; ++step) {
      for (const Tensor& tensor : tensors_) {
        ExpectedCall expected;
        expected.submitters = 0;
        for (int rank = 0; rank < world_.size(); ++rank) {
          const bool has_data = steps_[epoch][index(rank)] > step;
          if (has_data) ++expected.submitters;
          for (const std::int64_t extent : first_extents_of(tensor, rank, step)) {
            expected.first_extents.push_back(has_data ? extent : 0);
          }
        }
        expected.of_joined = signature_at(tensor, epoch);
        if (has_own_extent(tensor.signature.kind)) expected.of_joined.shape[0] = 0;
        if (tensor.signature.compression.mode != CompressionMode::none) {
          expected.step = counts[tensor.name]++;
        }
        world_.expect(tensor.name, std::move(expected));
      }
    }
  }
}

std::size_t Uneven::calls_of(int rank) const {
  std::size_t steps = 0;
  for (const std::vector<int>& epoch : steps_) steps += index(epoch[index(rank)]);
  return steps * tensors_.size();
}

void Uneven::start() {
  for (int rank = 0; rank < world_.size(); ++rank) {
    world_.at(rank, world_.random_duration(options_.gap_max), [this, rank] { start_step(rank); });
  }
}

void Uneven::start_step(int rank) {
  const Progress& progress = progress_[index(rank)];
  if (progress.epoch == steps_.size()) return;
  const int steps = steps_[progress.epoch][index(rank)];
  if (progress.step == steps) return world_.join(rank);
  std::vector<std::size_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), world_.random());
  const bool is_hasty = progress.step + 1 == steps && happens(world_.random(), 0.5);
  const bool has_gaps = happens(world_.random(), 0.5);
  progress_[index(rank)].open = is_hasty ? 0 : order.size();
  Duration after{};
  for (const std::size_t place : order) {
    if (has_gaps) after += world_.random_duration(options_.gap_max);
    world_.at(rank, after, [this, rank, place, epoch = progress.epoch, step = progress.step] {
      submit(rank, tensors_[place], epoch, step);
    });
  }
  if (is_hasty) world_.at(rank, after, [this, rank] { world_.join(rank); });
}

void Uneven::submit(int rank, const Tensor& tensor, std::size_t epoch, int step) {
  TensorSignature signature = signature_at(tensor, epoch);
  const std::vector<std::int64_t> extents = first_extents_of(tensor, rank, step);
  if (!extents.empty()) signature.shape[0] = std::reduce(extents.begin(), extents.end());
  const bool has_splits = signature.kind == OperationKind::all_to_all;
  world_.submit(rank, tensor.name, std::move(signature),
                has_splits ? extents : std::vector<std::int64_t>{});
}

void Uneven::take_completion(int rank) {
  Progress& progress = progress_[index(rank)];
  if (progress.open == 0 || --progress.open > 0) return;
  ++progress.step;
  world_.at(rank, world_.random_duration(options_.gap_max), [this, rank] { start_step(rank); });
}

void Uneven::take_end(int rank, int last_rank) {
  if (last_rank < 0 || last_rank >= world_.size()) {
    world_.violate(fmt::format("rank {} is said to have joined last", last_rank));
  }
  ++ends_;
  Progress& progress = progress_[index(rank)];
  ++progress.epoch;
  progress.step = 0;
  world_.at(rank, world_.random_duration(options_.gap_max), [this, rank] { start_step(rank); });
}

}  // namespace scalecom::sim
