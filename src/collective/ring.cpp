// Ring all-reduce and all-gather.
//
// n ranks, S bytes, neighbours r-1 and r+1. All-reduce: n-1 steps in which every rank sends the
// part it has reduced so far to the right and reduces what comes from the left, then n-1 steps that
// pass the finished parts around: 2(n-1) steps, 2(n-1)/n S bytes a rank. Each step sends and
// receives at once, in windows of chunks; a chunk is reduced while the next ones travel.
// All-gather: n-1 steps, a rank sends everything but its right neighbour's part.

#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {
namespace {

int modulo(int value, int n) { return ((value % n) + n) % n; }

template <class PartOf>
void pass_around(const Group& group, int first, const PartOf& part, std::string_view what) {
  const int n = group.size();
  const int right = modulo(group.rank() + 1, n);
  const int left = modulo(group.rank() - 1, n);
  for (int step = 0; step < n - 1; ++step) {
    Transfer transfers[] = {receive_from(left, part(modulo(first - step - 1, n))),
                            send_to(right, part(modulo(first - step, n)))};
    run_transfers(group, transfers, what);
  }
}

}  // namespace

void ring_all_reduce(const Group& group, std::span<std::byte> data, const Reduction& reduction) {
  const int n = group.size();
  if (n == 1 || data.empty()) return;
  const int rank = group.rank();
  const auto part = [&](int r) { return part_of(data, n, r, reduction.element_bytes()); };
  const auto scratch = group.scratch.acquire(part(0).size());
  for (int step = 0; step < n - 1; ++step) {
    const auto target = part(modulo(rank - step - 1, n));
    const auto received = scratch.first(target.size());
    const auto reduce_chunk = [&](std::size_t offset, std::size_t bytes) {
      std::byte* place = target.data() + offset;
      reduction(place, received.data() + offset, place, bytes);
    };
    Transfer transfers[] = {receive_from(modulo(rank - 1, n), received, reduce_chunk),
                            send_to(modulo(rank + 1, n), part(modulo(rank - step, n)))};
    run_transfers(group, transfers, "ring all-reduce, reduce-scatter");
  }
  pass_around(group, rank + 1, part, "ring all-reduce, all-gather");
}

void ring_all_gather(const Group& group, std::span<std::byte> all,
                     std::span<const std::int64_t> bytes_per_rank) {
  std::vector<std::span<std::byte>> parts;
  std::size_t begin = 0;
  for (const std::int64_t bytes : bytes_per_rank) {
    parts.push_back(all.subspan(begin, static_cast<std::size_t>(bytes)));
    begin += static_cast<std::size_t>(bytes);
  }
  pass_around(
      group, group.rank(), [&](int r) { return parts[static_cast<std::size_t>(r)]; },
      "ring all-gather");
}

}  // namespace scalecom
