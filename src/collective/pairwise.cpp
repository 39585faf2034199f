// Pairwise reduce-scatter and all-to-all.
//
// n ranks, S bytes. In step k = 1 to n-1 rank r sends to rank r+k and receives from rank r-k, so
// every rank has one partner for each direction and no link is asked for twice.
// Reduce-scatter: n-1 steps, all but the own part of S. A chunk is reduced while the next ones
// travel; one part of memory to receive into. Rank r's part is reduced in the order r, r-1, ...
// All-to-all: kPairs steps run at once, so that small parts do not wait for each other; every byte
// travels once, from its sender to its receiver.

#include <cstring>
#include <utility>
#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {
namespace {

// Steps of an all-to-all under way at once: bounds what is posted, 2 kPairs windows.
constexpr int kPairs = 4;

}  // namespace

void pairwise_reduce_scatter(const Group& group, std::span<const std::span<std::byte>> parts,
                             const Reduction& reduction) {
  const int n = group.size();
  const int rank = group.rank();
  const std::span<std::byte> mine = parts[static_cast<std::size_t>(rank)];
  const auto received = group.scratch.acquire(mine.size());
  const auto reduce_chunk = [&](std::size_t offset, std::size_t bytes) {
    std::byte* place = mine.data() + offset;
    reduction(place, place, received.data() + offset, bytes);
  };
  for (int step = 1; step < n; ++step) {
    const int to = (rank + step) % n;
    const int from = (rank - step + n) % n;
    run_transfers(group,
                  {receive_from(from, received, reduce_chunk),
                   send_to(to, parts[static_cast<std::size_t>(to)])},
                  "pairwise reduce-scatter");
  }
}

void pairwise_all_to_all(const Group& group, std::span<const std::span<const std::byte>> send,
                         std::span<const std::span<std::byte>> receive) {
  const int n = group.size();
  const int rank = group.rank();
  const auto here = static_cast<std::size_t>(rank);
  if (!send[here].empty()) std::memcpy(receive[here].data(), send[here].data(), send[here].size());
  std::vector<Transfer> transfers;
  for (int step = 1; step < n; ++step) {
    const int to = (rank + step) % n;
    const int from = (rank - step + n) % n;
    transfers.push_back(receive_from(from, receive[static_cast<std::size_t>(from)]));
    transfers.push_back(send_to(to, send[static_cast<std::size_t>(to)]));
    if (step % kPairs == 0 || step == n - 1) {
      run_transfers(group, std::exchange(transfers, {}), "pairwise all-to-all");
    }
  }
}

}  // namespace scalecom
