// Direct all-reduce and reduce-scatter, for a few ranks or small vectors.
//
// n ranks, S bytes. All-reduce, small vectors: every rank sends all of its data to every other and
// reduces by itself: 1 step, (n-1) S bytes a rank. Larger ones: rank r owns part r; it receives
// part r of everyone, reduces (this is the reduce-scatter), and sends the result to everyone:
// 2 steps, 2(n-1)/n S bytes a rank, as a ring, but with 2 steps instead of 2(n-1).
// Reduce-scatter: 1 step, all but the own part of S, with n-1 parts of memory to receive into.
//
// Every element is reduced in rank order, ((r0 op r1) op r2) op ..., on whichever rank it happens,
// so the result equals a serial reduction bit for bit.

#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {
namespace {

// data = contributions in rank order; `received` holds those of the other ranks, `mine` is in
// `data`. A running result, chunk by chunk, so that it stays in the cache.
void reduce_in_rank_order(int rank, int size, std::span<std::byte> data,
                          std::span<std::byte> received, const Reduction& reduction) {
  const std::size_t stride = data.size();
  const auto contribution = [&](int r) {
    const int slot = r < rank ? r : r - 1;
    return r == rank ? data.data() : received.data() + static_cast<std::size_t>(slot) * stride;
  };
  for (std::size_t begin = 0; begin < stride; begin += kChunkBytes) {
    const std::size_t bytes = std::min(kChunkBytes, stride - begin);
    // Until this rank's own values are used up the result grows in the first slot.
    std::byte* result = contribution(0) + begin;
    for (int r = 1; r < size; ++r) {
      std::byte* next = contribution(r) + begin;
      std::byte* place = r >= rank ? data.data() + begin : result;
      reduction(place, result, next, bytes);
      result = place;
    }
  }
}

// Receives from and sends to every other rank; a rank's number among the others is its slot.
template <class Receive, class Send>
std::vector<Transfer> exchange(const Group& group, const Receive& receive, const Send& send) {
  std::vector<Transfer> transfers;
  std::size_t slot = 0;
  for (int peer = 0; peer < group.size(); ++peer) {
    if (peer == group.rank()) continue;
    transfers.push_back(receive_from(peer, receive(peer, slot++)));
    transfers.push_back(send_to(peer, send(peer)));
  }
  return transfers;
}

}  // namespace

void direct_reduce_scatter(const Group& group, std::span<const std::span<std::byte>> parts,
                           const Reduction& reduction) {
  const int n = group.size();
  const std::span<std::byte> mine = parts[static_cast<std::size_t>(group.rank())];
  const auto received = group.scratch.acquire(mine.size() * static_cast<std::size_t>(n - 1));
  run_transfers(
      group,
      exchange(
          group,
          [&](int, std::size_t slot) { return received.subspan(slot * mine.size(), mine.size()); },
          [&](int peer) { return parts[static_cast<std::size_t>(peer)]; }),
      "direct reduce-scatter");
  reduce_in_rank_order(group.rank(), n, mine, received, reduction);
}

Steps direct_steps(const Group& group, std::span<std::byte> data, const Reduction& reduction) {
  const int n = group.size();
  const int rank = group.rank();
  if (n == 1 || data.empty()) return {};
  const bool is_whole = data.size() <= kDirectWholeBytesMax;
  const auto part = [=](int r) {
    return is_whole ? data : part_of(data, n, r, reduction.element_bytes());
  };
  const std::size_t mine = part(rank).size();
  const auto received = group.scratch.acquire(mine * static_cast<std::size_t>(n - 1));
  const auto slot_of = [=](int, std::size_t slot) { return received.subspan(slot * mine, mine); };
  const auto reduce = [=] { reduce_in_rank_order(rank, n, part(rank), received, reduction); };
  if (is_whole) return {1, [=, &group](int) { return exchange(group, slot_of, part); }, reduce};
  return {2, [=, &group](int step) {
            if (step == 0) return exchange(group, slot_of, part);
            reduce();
            return exchange(
                group, [&](int peer, std::size_t) { return part(peer); },
                [&](int) { return part(rank); });
          }};
}

}  // namespace scalecom
