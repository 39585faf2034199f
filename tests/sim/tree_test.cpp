#include "runtime/control/tree.hpp"

#include <algorithm>

#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

int depth_of(int rank, int size) {
  int depth = 0;
  for (int at = rank; at != 0; at = ControlTree::make(at, size).parent) ++depth;
  return depth;
}

}  // namespace

TEST_CASE("up to 16 ranks the control tree is a star around rank 0") {
  for (int size = 1; size <= kStarRanksMax; ++size) {
    const ControlTree root = ControlTree::make(0, size);
    CHECK(root.parent == -1);
    REQUIRE(static_cast<int>(root.children.size()) == size - 1);
    for (int rank = 1; rank < size; ++rank) {
      CHECK(root.children[static_cast<std::size_t>(rank - 1)] == rank);
      const ControlTree leaf = ControlTree::make(rank, size);
      CHECK(leaf.parent == 0);
      CHECK(leaf.children.empty());
      CHECK(leaf.subtree_end == rank + 1);
    }
  }
}

TEST_CASE("above 16 ranks it is a tree of fan-out 8 whose subtrees are ranges of ranks") {
  for (const int size : {17, 18, 64, 73, 74, 255, 256, 1000, 4681}) {
    CAPTURE(size);
    std::vector<int> times_child(static_cast<std::size_t>(size), 0);
    for (int rank = 0; rank < size; ++rank) {
      const ControlTree tree = ControlTree::make(rank, size);
      REQUIRE(static_cast<int>(tree.children.size()) <= kTreeFanOut);
      REQUIRE(std::is_sorted(tree.children.begin(), tree.children.end()));
      int next = rank + 1;  // The children's ranges follow each other without a gap.
      for (const int child : tree.children) {
        REQUIRE(child == next);
        const ControlTree below = ControlTree::make(child, size);
        REQUIRE(below.parent == rank);
        next = below.subtree_end;
        ++times_child[static_cast<std::size_t>(child)];
      }
      REQUIRE(next == tree.subtree_end);
    }
    REQUIRE(times_child[0] == 0);
    REQUIRE(std::count(times_child.begin(), times_child.end(), 1) == size - 1);
  }
}

TEST_CASE("the control tree is no deeper than a complete tree of its fan-out") {
  // 1 + 8 + 64 + 512 + 4096 ranks at depth 4.
  for (const auto& [size, depth] :
       {std::pair{17, 2}, {73, 2}, {74, 3}, {256, 3}, {585, 3}, {586, 4}, {4681, 4}}) {
    int deepest = 0;
    for (int rank = 0; rank < size; ++rank) deepest = std::max(deepest, depth_of(rank, size));
    CHECK(deepest == depth);
  }
}
