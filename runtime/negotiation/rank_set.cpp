#include "runtime/negotiation/rank_set.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace scalecom::negotiation {
namespace {

constexpr std::size_t kShownRanges = 12;

}  // namespace

void RankSet::add(RankRange range) {
  if (range.first >= range.end) return;
  // Every range that overlaps or touches the new one is taken in.
  const auto begin = std::find_if(ranges_.begin(), ranges_.end(), [&](const RankRange& present) {
    return present.end >= range.first;
  });
  auto end = begin;
  while (end != ranges_.end() && end->first <= range.end) {
    range.first = std::min(range.first, end->first);
    range.end = std::max(range.end, end->end);
    ++end;
  }
  ranges_.insert(ranges_.erase(begin, end), range);
}

void RankSet::add(const RankSet& other) {
  for (const RankRange& range : other.ranges_) add(range);
}

int RankSet::count() const noexcept {
  int count = 0;
  for (const RankRange& range : ranges_) count += range.end - range.first;
  return count;
}

RankSet RankSet::complement(int size) const {
  RankSet others;
  int next = 0;
  for (const RankRange& range : ranges_) {
    others.add({next, range.first});
    next = range.end;
  }
  others.add({next, size});
  return others;
}

std::string describe(const RankSet& ranks) {
  std::string text = ranks.count() == 1 ? "rank " : "ranks ";
  int left = ranks.count();
  const std::size_t shown = std::min(ranks.ranges().size(), kShownRanges);
  for (std::size_t i = 0; i < shown; ++i) {
    const RankRange& range = ranks.ranges()[i];
    const int count = range.end - range.first;
    left -= count;
    if (i > 0) text += left == 0 ? " and " : ", ";
    if (count == 1) {
      text += std::to_string(range.first);
    } else if (count == 2) {
      text += fmt::format("{}, {}", range.first, range.end - 1);
    } else {
      text += fmt::format("{}-{}", range.first, range.end - 1);
    }
  }
  if (left > 0) text += fmt::format(" and {} more", left);
  return text;
}

}  // namespace scalecom::negotiation
