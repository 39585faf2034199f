// Recursive doubling, and recursive halving with doubling (Rabenseifner), for any number of ranks.
//
// n ranks, S bytes, m the largest power of two up to n. When n is no power of two, the first
// 2(n-m) ranks pair up: the odd one hands its data to the even one before, and gets the result
// after, which costs 2 more steps and S more bytes for each of the two.
// Doubling: log2(m) steps; in each, partners exchange all of their data and both reduce it:
// log2(m) S bytes. For small vectors.
// Halving-doubling: log2(m) steps in which partners exchange halves of what they still hold and
// reduce, then log2(m) steps that gather it again: 2 log2(m) steps, 2(m-1)/m S bytes.
// The partner with the lower number is always the left operand, so both get the same bits.

#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {
namespace {

void reduce_ordered(const Reduction& reduction, std::byte* mine, const std::byte* theirs,
                    std::size_t bytes, bool is_mine_first) {
  reduction(mine, is_mine_first ? mine : theirs, is_mine_first ? theirs : mine, bytes);
}

// The m ranks that take part, numbered 0 to m-1, and what the others do before and after.
struct Fold {
  explicit Fold(const Group& group) : rank(group.rank()) {
    while (members * 2 <= group.size()) {
      members *= 2;
      ++levels;
    }
    folded = group.size() - members;
    if (rank >= 2 * folded) {
      member = rank - folded;
    } else if (rank % 2 == 0) {
      member = rank / 2;
    }
  }

  // Steps before the members' own; as many follow them.
  int steps() const { return folded > 0 ? 1 : 0; }
  bool is_paired() const { return rank < 2 * folded; }
  int rank_of(int other) const { return other < folded ? 2 * other : other + folded; }

  std::vector<Transfer> fold_in(std::span<std::byte> data, std::span<std::byte> received,
                                const Reduction& reduction) const {
    if (!is_paired()) return {};
    if (member < 0) return {send_to(rank - 1, data)};
    return {receive_from(rank + 1, received, [=](std::size_t offset, std::size_t bytes) {
      reduce_ordered(reduction, data.data() + offset, received.data() + offset, bytes, true);
    })};
  }

  std::vector<Transfer> fold_out(std::span<std::byte> data) const {
    if (!is_paired()) return {};
    return {member < 0 ? receive_from(rank - 1, data) : send_to(rank + 1, data)};
  }

  int rank = 0;
  int members = 1;
  int levels = 0;   // log2(members)
  int folded = 0;   // pairs
  int member = -1;  // this rank's number, -1 for an odd rank of a pair
};

}  // namespace

Steps recursive_doubling_steps(const Group& group, std::span<std::byte> data,
                               const Reduction& reduction) {
  if (group.size() == 1 || data.empty()) return {};
  const Fold fold(group);
  const auto received = group.scratch.acquire(data.size());
  // What a level has received is reduced when it is over: until then its data is being sent.
  const auto reduce = [=](int level) {
    if (fold.member < 0) return;
    const int partner = fold.member ^ (1 << level);
    reduce_ordered(reduction, data.data(), received.data(), data.size(), fold.member < partner);
  };
  const auto make = [=](int step) -> std::vector<Transfer> {
    const int level = step - fold.steps();
    if (level < 0) return fold.fold_in(data, received, reduction);
    if (level > 0) reduce(level - 1);
    if (level == fold.levels) return fold.fold_out(data);
    if (fold.member < 0) return {};
    const int peer = fold.rank_of(fold.member ^ (1 << level));
    return {receive_from(peer, received), send_to(peer, data)};
  };
  const auto finish = [=] {
    if (fold.steps() == 0) reduce(fold.levels - 1);
  };
  return {2 * fold.steps() + fold.levels, make, finish};
}

Steps halving_doubling_steps(const Group& group, std::span<std::byte> data,
                             const Reduction& reduction) {
  if (group.size() == 1 || data.empty()) return {};
  const Fold fold(group);
  const auto received = group.scratch.acquire(data.size());
  // What this rank holds before each halving; it owns the last.
  std::vector<std::span<std::byte>> held{data};
  const auto half_of = [element = reduction.element_bytes()](std::span<std::byte> whole, int half) {
    return part_of(whole, 2, half, element);
  };
  const auto mask_of = [=](int level) { return fold.members >> (level + 1); };
  const auto upper = [=](int level) { return (fold.member & mask_of(level)) != 0 ? 1 : 0; };
  for (int level = 0; level < fold.levels; ++level) {
    held.push_back(half_of(held.back(), upper(level)));
  }
  const auto make = [=](int step) -> std::vector<Transfer> {
    const int place = step - fold.steps();
    if (place < 0) return fold.fold_in(data, received, reduction);
    if (place == 2 * fold.levels) return fold.fold_out(data);
    if (fold.member < 0) return {};
    const bool is_halving = place < fold.levels;
    const int level = is_halving ? place : 2 * fold.levels - 1 - place;
    const int partner = fold.member ^ mask_of(level);
    const int peer = fold.rank_of(partner);
    const auto whole = held[static_cast<std::size_t>(level)];
    const auto mine = half_of(whole, upper(level));
    const auto theirs = half_of(whole, 1 - upper(level));
    if (!is_halving) return {receive_from(peer, theirs), send_to(peer, mine)};
    const bool is_first = fold.member < partner;
    const auto reduce_chunk = [=](std::size_t offset, std::size_t bytes) {
      reduce_ordered(reduction, mine.data() + offset, received.data() + offset, bytes, is_first);
    };
    return {receive_from(peer, received.first(mine.size()), reduce_chunk), send_to(peer, theirs)};
  };
  return {2 * fold.steps() + 2 * fold.levels, make};
}

}  // namespace scalecom
