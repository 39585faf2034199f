#pragma once

#include <vector>

namespace scalecom {

/// Ranks above which negotiation runs on a tree instead of a star around rank 0.
inline constexpr int kStarRanksMax = 16;
/// Children of a node in the tree.
inline constexpr int kTreeFanOut = 8;

/// This rank's neighbours in the control tree. Root is rank 0; a subtree's ranks are those whose
/// path to the root passes through its top.
struct ControlTree {
  int rank = 0;
  int size = 1;
  int parent = -1;  ///< -1 at the root
  std::vector<int> children;

  static ControlTree make(int rank, int size);
};

}  // namespace scalecom
