#include "runtime/negotiation/schedule_learner.hpp"

#include <algorithm>
#include <utility>

#include "runtime/negotiation/schedule.hpp"

namespace scalecom::negotiation {

ScheduleLearner::ScheduleLearner(int steps) : steps_(std::max(steps, 0)), needed_(steps_) {}

void ScheduleLearner::take(std::span<const std::int32_t> numbers, Clock::duration wait) {
  if (steps_ == 0) return;
  bool is_first = true;
  for (const std::int32_t number : numbers) {
    if (stamp(number) == step_ || repeats()) {
      end_step();
      is_first = true;
    }
    if (current_.places.size() == kScheduledTensorsMax) return reset();
    std::uint64_t& stamp = stamp_of(number);
    if (stamp + 1 == step_) ++current_.known;
    stamp = step_;
    current_.places.push_back({number, is_first});
    current_.wait = std::max(current_.wait, wait);
    is_first = false;
  }
  if (repeats()) end_step();
}

bool ScheduleLearner::repeats() const noexcept {
  return current_.places.size() == last_.places.size() &&
         current_.known == current_.places.size() && !current_.places.empty();
}

void ScheduleLearner::end_step() {
  const bool is_equal = repeats();
  equal_ = is_equal ? equal_ + 1 : 1;
  wait_ = is_equal ? std::max(wait_, current_.wait) : current_.wait;
  std::swap(last_, current_);
  current_.places.clear();
  current_.known = 0;
  current_.wait = {};
  ++step_;
}

void ScheduleLearner::reset() {
  last_ = {};
  current_ = {};
  equal_ = 0;
  stamps_.clear();
}

void ScheduleLearner::take_leave(std::uint64_t rounds) {
  const bool has_paid = rounds >= 2 * static_cast<std::uint64_t>(needed_);
  needed_ = has_paid ? steps_ : std::min(2 * needed_, kStepsFactorMax * steps_);
  reset();
}

bool ScheduleLearner::is_ready() const noexcept {
  return steps_ > 0 && equal_ >= needed_ && current_.known == current_.places.size();
}

std::vector<std::vector<std::int32_t>> ScheduleLearner::schedule() const {
  std::vector<std::vector<std::int32_t>> agreements;
  bool is_cut = true;
  const auto add = [&](const Place& place) {
    if (place.is_first || is_cut) agreements.emplace_back();
    agreements.back().push_back(place.number);
    is_cut = false;
  };
  // What the step under way has had comes last: it leaves gaps here, also at the head of an
  // agreement.
  for (const Place& place : last_.places) {
    if (place.is_first) is_cut = true;
    if (stamp(place.number) != step_) add(place);
  }
  is_cut = true;
  for (const Place& place : current_.places) add(place);
  return agreements;
}

Clock::duration ScheduleLearner::patience() const noexcept {
  constexpr Clock::duration kPatienceMin = std::chrono::milliseconds(20);
  const Clock::duration wait = std::clamp<Clock::duration>(wait_, {}, kPatienceMax);
  return std::min<Clock::duration>(kPatienceMin + 4 * wait, kPatienceMax);
}

std::uint64_t& ScheduleLearner::stamp_of(std::int32_t number) {
  const auto place = static_cast<std::size_t>(number);
  if (place >= stamps_.size()) stamps_.resize(place + 1);
  return stamps_[place];
}

std::uint64_t ScheduleLearner::stamp(std::int32_t number) const noexcept {
  const auto place = static_cast<std::size_t>(number);
  return place < stamps_.size() ? stamps_[place] : 0;
}

}  // namespace scalecom::negotiation
