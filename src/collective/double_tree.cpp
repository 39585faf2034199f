// Double binary tree all-reduce, pipelined (Sanders, Speck, Traeff, "Two-tree algorithms for full
// bandwidth broadcast, reduction and scan", Parallel Computing 35, 2009).
//
// n ranks, S bytes. Two binary trees over the ranks, each for one half of the data; the inner nodes
// of one are (for even n) the leaves of the other, so that every rank sends about as much as it
// receives. In each tree chunks travel up to the root, reduced on the way, and down again: about
// 2 log2(n) chunks of delay; an inner rank of a tree sends S/2 up and S down, a leaf S/2 up: at
// most 2 S bytes a rank over both trees.

#include <array>
#include <deque>
#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {
namespace {

// Chunks that may be on their way up and down at once: more than twice the height of any tree.
constexpr std::size_t kPipelineDepth = 64;

// Positions 1..n in in-order numbering: a position's height is that of its lowest set bit, the
// root is the highest power of two up to n.
struct Node {
  int parent = 0;  // 0: none
  std::vector<int> children;
};

Node node_at(int position, int n) {
  Node node;
  const int bit = position & -position;
  const int upper = (position - bit) | (2 * bit);
  node.parent = upper <= n ? upper : position - bit;
  if (bit > 1) node.children.push_back(position - bit / 2);
  int step = bit / 2;
  while (step > 0 && position + step > n) step /= 2;
  if (step > 0) node.children.push_back(position + step);
  return node;
}

// One tree's share of the work on this rank.
class TreePipe {
 public:
  TreePipe(const Group& group, int tree, std::span<std::byte> data, std::span<std::byte> scratch,
           const Reduction& reduction)
      : group_(group),
        data_(data),
        scratch_(scratch),
        reduction_(reduction),
        chunks_((data.size() + kTreeChunkBytes - 1) / kTreeChunkBytes),
        up_tag_(group.first_tag + 2 * tree),
        down_tag_(group.first_tag + 2 * tree + 1) {
    const int n = group.size();
    // The second tree is the first, shifted by one rank.
    const Node node = node_at((group.rank() + tree) % n + 1, n);
    const auto rank_at = [&](int position) { return (position - 1 - tree + n) % n; };
    if (node.parent > 0) parent_ = rank_at(node.parent);
    for (const int child : node.children) children_.push_back({rank_at(child)});
    for (Child& child : children_) {
      while (child.posted < std::min(chunks_, kWindow)) post_from(child);
    }
    if (parent_ >= 0) up_.resize(chunks_);
  }

  bool is_done() {
    drop_finished_sends();
    return finished_ == chunks_ && sends_.empty();
  }

  bool advance() {
    const std::size_t before = reduced_ + posted_down_ + finished_;
    while (reduced_ < std::min(chunks_, finished_ + kPipelineDepth) && has_all_children()) {
      reduce_next();
    }
    // The result lands where this rank's own values were, so those must have left.
    while (posted_down_ < std::min(reduced_, finished_ + kWindow) && parent_ >= 0 &&
           group_.transport.test(up_[posted_down_])) {
      down_[posted_down_ % kWindow] =
          group_.transport.post_receive(chunk(posted_down_), parent_, down_tag_);
      ++posted_down_;
    }
    while (finished_ < posted_down_ && group_.transport.test(down_[finished_ % kWindow])) {
      pass_down(finished_++);
    }
    drop_finished_sends();
    return reduced_ + posted_down_ + finished_ != before;
  }

 private:
  struct Child {
    int rank = 0;
    std::size_t posted = 0;
    std::array<TransportRequest, kWindow> requests{};
  };

  std::span<std::byte> chunk(std::size_t index) const {
    const std::size_t begin = index * kTreeChunkBytes;
    return data_.subspan(begin, std::min(kTreeChunkBytes, data_.size() - begin));
  }

  std::span<std::byte> slot(const Child& child, std::size_t index) const {
    const auto which = static_cast<std::size_t>(&child - children_.data());
    return scratch_.subspan((which * kWindow + index % kWindow) * kTreeChunkBytes,
                            chunk(index).size());
  }

  void post_from(Child& child) {
    child.requests[child.posted % kWindow] =
        group_.transport.post_receive(slot(child, child.posted), child.rank, up_tag_);
    ++child.posted;
  }

  bool has_all_children() {
    return std::all_of(children_.begin(), children_.end(), [this](Child& child) {
      return group_.transport.test(child.requests[reduced_ % kWindow]);
    });
  }

  void reduce_next() {
    const auto mine = chunk(reduced_);
    for (Child& child : children_) {
      reduction_(mine.data(), mine.data(), slot(child, reduced_).data(), mine.size());
      if (child.posted < chunks_) post_from(child);
    }
    const std::size_t index = reduced_++;
    if (parent_ >= 0) {
      up_[index] = group_.transport.post_send(mine, parent_, up_tag_);
    } else {
      pass_down(index);
      ++finished_;
    }
  }

  void pass_down(std::size_t index) {
    for (const Child& child : children_) {
      sends_.push_back(group_.transport.post_send(chunk(index), child.rank, down_tag_));
    }
  }

  void drop_finished_sends() {
    while (!sends_.empty() && group_.transport.test(sends_.front())) sends_.pop_front();
  }

  const Group& group_;
  const std::span<std::byte> data_;
  const std::span<std::byte> scratch_;
  const Reduction& reduction_;
  const std::size_t chunks_;
  const int up_tag_;
  const int down_tag_;
  int parent_ = -1;
  std::vector<Child> children_;
  std::size_t reduced_ = 0;
  std::size_t posted_down_ = 0;
  std::size_t finished_ = 0;
  std::array<TransportRequest, kWindow> down_{};
  std::vector<TransportRequest> up_;    // by chunk
  std::deque<TransportRequest> sends_;  // down, in order
};

}  // namespace

void double_tree_all_reduce(const Group& group, std::span<std::byte> data,
                            const Reduction& reduction) {
  if (group.size() == 1 || data.empty()) return;
  const std::size_t element = reduction.element_bytes();
  const std::size_t tree_scratch = 2 * kWindow * kTreeChunkBytes;
  const auto scratch = group.scratch.acquire(2 * tree_scratch);
  TreePipe first(group, 0, part_of(data, 2, 0, element), scratch.first(tree_scratch), reduction);
  TreePipe second(group, 1, part_of(data, 2, 1, element), scratch.last(tree_scratch), reduction);
  WaitLoop loop(group.context);
  while (true) {
    const bool first_moved = first.advance();
    const bool second_moved = second.advance();
    if (first.is_done() && second.is_done()) return;
    if (first_moved || second_moved) {
      loop.restart();
    } else {
      loop.pause("double tree all-reduce");
    }
  }
}

}  // namespace scalecom
