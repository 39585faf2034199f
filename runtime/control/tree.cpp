#include "runtime/control/tree.hpp"

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/error.hpp"

namespace scalecom {
namespace {

// The node at `top` of the ranks [top, end) shares the others out to its children evenly.
std::vector<int> children_of(int top, int end, int fan_out) {
  const int below = end - top - 1;
  const int count = std::min(below, fan_out);
  std::vector<int> children;
  children.reserve(static_cast<std::size_t>(count));
  for (int child = 0; child < count; ++child) {
    const auto before = static_cast<std::int64_t>(below) * child / count;
    children.push_back(top + 1 + static_cast<int>(before));
  }
  return children;
}

}  // namespace

ControlTree ControlTree::make(int rank, int size) {
  SCALECOM_ASSERT(rank >= 0 && rank < size,
                  "rank " + std::to_string(rank) + " of " + std::to_string(size));
  const int fan_out = size <= kStarRanksMax ? kStarRanksMax : kTreeFanOut;
  ControlTree tree;
  int top = 0;
  tree.subtree_end = size;
  tree.children = children_of(top, tree.subtree_end, fan_out);
  while (top != rank) {
    // Down into the child whose range holds the rank.
    const auto next = std::upper_bound(tree.children.begin(), tree.children.end(), rank);
    if (next != tree.children.end()) tree.subtree_end = *next;
    tree.parent = top;
    top = *(next - 1);
    tree.children = children_of(top, tree.subtree_end, fan_out);
  }
  return tree;
}

}  // namespace scalecom
