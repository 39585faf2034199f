#pragma once

#include <vector>

namespace scalecom {

/// Ranks above which negotiation runs on a tree instead of a star around rank 0.
inline constexpr int kStarRanksMax = 16;
/// Children of a node in the tree.
inline constexpr int kTreeFanOut = 8;

/// This rank's neighbours in the control tree. Root is rank 0; a subtree's ranks are those whose
/// path to the root passes through its top. Every subtree is a contiguous range of ranks, so
/// neighbours are mostly ranks of one host, and a set of subtrees is a short list of ranges.
struct ControlTree {
  int parent = -1;            ///< -1 at the root
  std::vector<int> children;  ///< ascending
  /// This rank's subtree is the ranks [rank, subtree_end); child i's ends where child i + 1 begins.
  int subtree_end = 1;

  /// Requires 0 <= rank < size. O(fan-out * depth).
  static ControlTree make(int rank, int size);
};

}  // namespace scalecom
