// Direct all-reduce, for a few ranks.
//
// n ranks, S bytes. Small vectors: every rank sends all of its data to every other and reduces by
// itself: 1 step, (n-1) S bytes a rank. Larger ones: rank r owns part r; it receives part r of
// everyone, reduces, and sends the result to everyone: 2 steps, 2(n-1)/n S bytes a rank, as a ring,
// but with 2 steps instead of 2(n-1).
//
// Every element is reduced in rank order, ((r0 op r1) op r2) op ..., on whichever rank it happens,
// so the result equals a serial reduction bit for bit.

#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {
namespace {

// Up to here one step with more bytes is faster than two: a message costs about as much as 2 KiB.
constexpr std::size_t kWholeBytesMax = 2048;

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

void exchange_whole(const Group& group, std::span<std::byte> data, const Reduction& reduction) {
  const int n = group.size();
  const std::size_t bytes = data.size();
  const auto received = group.scratch.acquire(bytes * static_cast<std::size_t>(n - 1));
  std::vector<Transfer> transfers;
  std::size_t slot = 0;
  for (int peer = 0; peer < n; ++peer) {
    if (peer == group.rank()) continue;
    transfers.push_back(receive_from(peer, received.subspan(slot++ * bytes, bytes)));
    transfers.push_back(send_to(peer, data));
  }
  run_transfers(group, transfers, "direct all-reduce");
  reduce_in_rank_order(group.rank(), n, data, received, reduction);
}

}  // namespace

void direct_all_reduce(const Group& group, std::span<std::byte> data, const Reduction& reduction) {
  const int n = group.size();
  const int rank = group.rank();
  if (n == 1 || data.empty()) return;
  if (data.size() <= kWholeBytesMax) {
    exchange_whole(group, data, reduction);
    return;
  }
  const auto part = [&](int r) { return part_of(data, n, r, reduction.element_bytes()); };
  const std::size_t mine = part(rank).size();
  const auto received = group.scratch.acquire(mine * static_cast<std::size_t>(n - 1));
  std::vector<Transfer> transfers;
  std::size_t slot = 0;
  for (int peer = 0; peer < n; ++peer) {
    if (peer == rank) continue;
    transfers.push_back(receive_from(peer, received.subspan(slot++ * mine, mine)));
    transfers.push_back(send_to(peer, part(peer)));
  }
  run_transfers(group, transfers, "direct all-reduce, reduce-scatter");
  reduce_in_rank_order(rank, n, part(rank), received, reduction);

  transfers.clear();
  for (int peer = 0; peer < n; ++peer) {
    if (peer == rank) continue;
    transfers.push_back(receive_from(peer, part(peer)));
    transfers.push_back(send_to(peer, part(rank)));
  }
  run_transfers(group, transfers, "direct all-reduce, all-gather");
}

}  // namespace scalecom
