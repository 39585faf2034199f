#pragma once

#include <string>
#include <vector>

namespace scalecom::negotiation {

/// The ranks [first, end).
struct RankRange {
  int first = 0;
  int end = 0;
};

/// A set of ranks as ascending, disjoint ranges that do not touch. The control tree's subtrees are
/// ranges, so sets of ranks stay short however large the world is.
class RankSet {
 public:
  RankSet() = default;
  explicit RankSet(RankRange range) { add(range); }

  void add(RankRange range);
  void add(const RankSet& other);

  bool is_empty() const noexcept { return ranges_.empty(); }
  int count() const noexcept;
  const std::vector<RankRange>& ranges() const noexcept { return ranges_; }
  /// The ranks of [0, size) that are not in here.
  RankSet complement(int size) const;

 private:
  std::vector<RankRange> ranges_;
};

/// "rank 3", "ranks 0-3, 7 and 9", bounded: "ranks 0, 2, 4 and 61 more".
std::string describe(const RankSet& ranks);

}  // namespace scalecom::negotiation
