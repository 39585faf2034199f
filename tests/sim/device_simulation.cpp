#include "tests/sim/device_simulation.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace scalecom::sim {
namespace {

// A run takes far fewer: who waits for what never comes makes no more progress.
constexpr std::size_t kDrawsMax = 100'000;
constexpr std::size_t kActions = 18;

}  // namespace

DeviceSimulation::DeviceSimulation(const DevicePlan& plan)
    : plan_(plan),
      random_(plan.seed * 31 + static_cast<std::uint64_t>(plan.fault)),
      meetings_(plan.host_of_rank, violations_),
      job_({plan.host_of_rank.begin(), plan.host_of_rank.end()}) {
  for (int rank = 0; rank < plan.size; ++rank) {
    ranks_.push_back(std::make_unique<DeviceRank>(plan, rank, meetings_, job_, violations_));
  }
  laggard_ = ranks_.size();
  lost_ = draw(ranks_.size());
  lost_after_ = draw(plan.call_count());
  if (plan.measures_before && draw(4) > 0) lost_after_ = *plan.measures_before;
}

void DeviceSimulation::run() {
  while (violations_.empty() && !is_over()) {
    if (++draws_ > kDrawsMax) {
      violations_.push_back(fmt::format("not over after {} draws", kDrawsMax));
      return;
    }
    step();
  }
  if (!violations_.empty()) return;
  // As its process ends.
  if (is_known()) ranks_[lost_]->abort();
  for (const auto& rank : ranks_) {
    log_ += rank->calls();
    rank->end();
  }
  if (is_lost_) return;
  for (const auto& rank : ranks_) {
    if (rank->costs() != ranks_.front()->costs()) {
      violations_.push_back(
          fmt::format("costs differ: {} and {}", rank->costs(), ranks_.front()->costs()));
    }
    if (rank->figures() == ranks_.front()->figures()) continue;
    violations_.push_back(
        fmt::format("health differs: {} and {}", rank->figures(), ranks_.front()->figures()));
  }
}

bool DeviceSimulation::is_over() {
  const bool is_silent = is_lost_ && plan_.fault == DeviceFault::silent_rank;
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
    if (is_silent && rank == lost_) continue;
    if (!ranks_[rank]->is_over()) return false;
  }
  return true;
}

std::size_t DeviceSimulation::agreed() const {
  std::size_t calls = plan_.call_count();
  for (const auto& rank : ranks_) calls = std::min(calls, rank->submitted());
  return calls;
}

void DeviceSimulation::lose_rank() {
  const bool has_fault = plan_.fault != DeviceFault::none && plan_.fault != DeviceFault::shortage;
  if (!has_fault || is_lost_ || ranks_[lost_]->begun() <= lost_after_ || draw(8) > 0) return;
  is_lost_ = true;
  log_ += fmt::format("(rank {} is lost)", lost_);
  ranks_[lost_]->fail();
}

// A rank whose device has no memory may get through without any.
bool DeviceSimulation::is_known() const {
  return is_lost_ && (plan_.fault != DeviceFault::no_memory || ranks_[lost_]->has_aborted());
}

void DeviceSimulation::step() {
  lose_rank();
  if (draw(48) == 0) laggard_ = draw(ranks_.size() + 1);
  const std::size_t rank = draw(ranks_.size());
  const std::size_t action = draw(kActions);
  const bool is_silent = is_lost_ && rank == lost_ && plan_.fault == DeviceFault::silent_rank;
  if (rank == laggard_ || is_silent) return;
  const bool has_moved = act(rank, action);
  log_ += fmt::format("{}{}{}", rank, static_cast<char>('a' + action), has_moved ? '+' : '-');
}

bool DeviceSimulation::act(std::size_t place, std::size_t action) {
  DeviceRank& rank = *ranks_[place];
  switch (action) {
    case 0:
    case 1: return rank.submit();
    case 2:
    case 3: return rank.read();
    case 4: rank.look(); return true;
    case 5:  // Hears of it.
      if (is_known()) rank.abort();
      return is_known();
    case 6:
    case 7:
    case 8:
    case 9: rank.move(); return true;
    case 10:
    case 11: return rank.post();
    default: return rank.coordinate(agreed());
  }
}

}  // namespace scalecom::sim
