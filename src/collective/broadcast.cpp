// Broadcast.
//
// n ranks, S bytes, numbered from the root. Binomial: ceil(log2 n) steps; a rank that has the data
// sends it to the one 2^k further on: the root sends up to ceil(log2 n) S bytes. For small vectors.
// Chain: every rank passes each chunk on to the next as it arrives: n-2 chunks of delay, at most S
// bytes a rank. For large ones.

#include <array>
#include <utility>
#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {

void binomial_broadcast(const Group& group, std::span<std::byte> data, int root) {
  const int n = group.size();
  if (n == 1 || data.empty()) return;
  const int place = (group.rank() - root + n) % n;
  const auto rank_of = [&](int other) { return (other + root) % n; };
  int mask = 1;
  while (mask < n && (place & mask) == 0) mask *= 2;
  if (place != 0) {
    run_transfers(group, {receive_from(rank_of(place - mask), data)}, "binomial broadcast");
  }
  std::vector<Transfer> sends;
  for (mask /= 2; mask > 0; mask /= 2) {
    if (place + mask < n) sends.push_back(send_to(rank_of(place + mask), data));
  }
  run_transfers(group, std::move(sends), "binomial broadcast");
}

void chain_broadcast(const Group& group, std::span<std::byte> data, int root) {
  const int n = group.size();
  if (n == 1 || data.empty()) return;
  const int place = (group.rank() - root + n) % n;
  const int previous = (group.rank() - 1 + n) % n;
  const int next = (group.rank() + 1) % n;
  if (place == 0 || place == n - 1) {
    run_transfers(group, {place == 0 ? send_to(next, data) : receive_from(previous, data)},
                  "chain broadcast");
    return;
  }
  // Sends in flight, the oldest first; a slot is waited for before it is used again.
  std::array<TransportRequest, kWindow> sends{};
  std::size_t sent = 0;
  const auto pass_on = [&](std::size_t offset, std::size_t bytes) {
    TransportRequest& slot = sends[sent++ % kWindow];
    wait(group.transport, slot, group.context, "chain broadcast");
    slot = group.transport.post_send(data.subspan(offset, bytes), next, group.first_tag);
  };
  run_transfers(group, {receive_from(previous, data, pass_on)}, "chain broadcast");
  wait_all(group.transport, sends, group.context, "chain broadcast");
}

}  // namespace scalecom
