#include "tests/sim/device_simulation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace scalecom::sim {
namespace {

// A run takes far fewer: who waits for what never comes makes no more progress.
constexpr std::size_t kDrawsMax = 100'000;
constexpr std::size_t kActions = 18;

std::vector<int> hosts_of(const DevicePlan& plan) {
  std::vector<int> each_its_own(static_cast<std::size_t>(plan.size));
  std::iota(each_its_own.begin(), each_its_own.end(), 0);
  return each_its_own;
}

}  // namespace

DeviceSimulation::DeviceSimulation(const DevicePlan& plan)
    : plan_(plan),
      random_(plan.seed * 31 + static_cast<std::uint64_t>(plan.fault)),
      meeting_(plan.size, violations_),
      job_(hosts_of(plan)) {
  for (int rank = 0; rank < plan.size; ++rank) {
    ranks_.push_back(std::make_unique<DeviceRank>(plan, rank, meeting_, job_, violations_));
  }
  laggard_ = ranks_.size();
  lost_ = draw(ranks_.size());
  lost_after_ = draw(plan.call_count());
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
  if (is_lost_) ranks_[lost_]->abort();
  for (const auto& rank : ranks_) {
    log_ += rank->calls();
    rank->end();
  }
  if (is_lost_) return;
  for (const auto& rank : ranks_) {
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
  const bool has_fault =
      plan_.fault == DeviceFault::silent_rank || plan_.fault == DeviceFault::failing_rank;
  if (!has_fault || is_lost_ || ranks_[lost_]->begun() <= lost_after_ || draw(8) > 0) return;
  is_lost_ = true;
  log_ += fmt::format("(rank {} is lost)", lost_);
  if (plan_.fault == DeviceFault::failing_rank) ranks_[lost_]->fail();
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
      if (is_lost_) rank.abort();
      return is_lost_;
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
