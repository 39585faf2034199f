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

// The m ranks that take part, numbered 0 to m-1.
struct Fold {
  explicit Fold(const Group& group) {
    while (members * 2 <= group.size()) members *= 2;
    folded = group.size() - members;
    const int rank = group.rank();
    if (rank >= 2 * folded) {
      member = rank - folded;
    } else if (rank % 2 == 0) {
      member = rank / 2;
    }
  }
  int rank_of(int other) const { return other < folded ? 2 * other : other + folded; }

  int members = 1;
  int folded = 0;   // pairs
  int member = -1;  // this rank's number, -1 for an odd rank of a pair
};

void reduce_ordered(const Reduction& reduction, std::byte* mine, const std::byte* theirs,
                    std::size_t bytes, bool is_mine_first) {
  reduction(mine, is_mine_first ? mine : theirs, is_mine_first ? theirs : mine, bytes);
}

void fold_in(const Group& group, const Fold& fold, std::span<std::byte> data,
             const Reduction& reduction) {
  if (group.rank() >= 2 * fold.folded) return;
  if (fold.member < 0) {
    run_transfers(group, {send_to(group.rank() - 1, data)}, "all-reduce, fold");
    return;
  }
  const auto received = group.scratch.acquire(data.size());
  run_transfers(group,
                {receive_from(group.rank() + 1, received,
                              [&](std::size_t offset, std::size_t bytes) {
                                reduce_ordered(reduction, data.data() + offset,
                                               received.data() + offset, bytes, true);
                              })},
                "all-reduce, fold");
}

void fold_out(const Group& group, const Fold& fold, std::span<std::byte> data) {
  if (group.rank() >= 2 * fold.folded) return;
  const bool is_member = fold.member >= 0;
  run_transfers(
      group, {is_member ? send_to(group.rank() + 1, data) : receive_from(group.rank() - 1, data)},
      "all-reduce, unfold");
}

void double_up(const Group& group, const Fold& fold, std::span<std::byte> data,
               const Reduction& reduction) {
  const auto received = group.scratch.acquire(data.size());
  for (int mask = 1; mask < fold.members; mask *= 2) {
    const int partner = fold.member ^ mask;
    const int peer = fold.rank_of(partner);
    run_transfers(group, {receive_from(peer, received), send_to(peer, data)},
                  "recursive doubling all-reduce");
    reduce_ordered(reduction, data.data(), received.data(), data.size(), fold.member < partner);
  }
}

}  // namespace

void recursive_doubling_all_reduce(const Group& group, std::span<std::byte> data,
                                   const Reduction& reduction) {
  if (group.size() == 1 || data.empty()) return;
  const Fold fold(group);
  fold_in(group, fold, data, reduction);
  if (fold.member >= 0) double_up(group, fold, data, reduction);
  fold_out(group, fold, data);
}

void halving_doubling_all_reduce(const Group& group, std::span<std::byte> data,
                                 const Reduction& reduction) {
  if (group.size() == 1 || data.empty()) return;
  const Fold fold(group);
  fold_in(group, fold, data, reduction);
  if (fold.member >= 0) {
    const std::size_t element = reduction.element_bytes();
    // What this rank holds before each halving; the last one is what it owns.
    std::vector<std::span<std::byte>> held{data};
    const auto received = group.scratch.acquire(data.size());
    for (int mask = fold.members / 2; mask > 0; mask /= 2) {
      const int partner = fold.member ^ mask;
      const int upper = fold.member > partner ? 1 : 0;
      const auto mine = part_of(held.back(), 2, upper, element);
      const auto theirs = part_of(held.back(), 2, 1 - upper, element);
      const auto reduce_chunk = [&](std::size_t offset, std::size_t bytes) {
        reduce_ordered(reduction, mine.data() + offset, received.data() + offset, bytes,
                       fold.member < partner);
      };
      const int peer = fold.rank_of(partner);
      run_transfers(
          group,
          {receive_from(peer, received.first(mine.size()), reduce_chunk), send_to(peer, theirs)},
          "halving-doubling all-reduce, reduce-scatter");
      held.push_back(mine);
    }
    for (int mask = 1; mask < fold.members; mask *= 2) {
      const int partner = fold.member ^ mask;
      const int upper = fold.member > partner ? 1 : 0;
      held.pop_back();
      const int peer = fold.rank_of(partner);
      run_transfers(group,
                    {receive_from(peer, part_of(held.back(), 2, 1 - upper, element)),
                     send_to(peer, part_of(held.back(), 2, upper, element))},
                    "halving-doubling all-reduce, all-gather");
    }
  }
  fold_out(group, fold, data);
}

}  // namespace scalecom
