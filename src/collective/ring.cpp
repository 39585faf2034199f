// Ring all-reduce and all-gather.
//
// n ranks, S bytes, neighbours r-1 and r+1. All-reduce: n-1 steps in which every rank sends the
// part it has reduced so far to the right and reduces what comes from the left, then n-1 steps that
// pass the finished parts around: 2(n-1) steps, 2(n-1)/n S bytes a rank. Each step sends and
// receives at once, in windows of chunks; a chunk is reduced while the next ones travel.
// All-gather: n-1 steps, a rank sends everything but its right neighbour's part.

#include <utility>
#include <vector>

#include "collective/algorithms.hpp"
#include "collective/transfers.hpp"

namespace scalecom {
namespace {

int modulo(int value, int n) { return ((value % n) + n) % n; }

// The step of passing finished parts on; rank r begins with part `first`.
template <class PartOf>
std::vector<Transfer> pass_on(const Group& group, int first, int step, const PartOf& part) {
  const int n = group.size();
  return {receive_from(modulo(group.rank() - 1, n), part(modulo(first - step - 1, n))),
          send_to(modulo(group.rank() + 1, n), part(modulo(first - step, n)))};
}

}  // namespace

Steps ring_steps(const Group& group, std::span<std::byte> data, const Reduction& reduction) {
  const int n = group.size();
  if (n == 1 || data.empty()) return {};
  const int rank = group.rank();
  const auto part = [=](int r) { return part_of(data, n, r, reduction.element_bytes()); };
  const auto scratch = group.scratch.acquire(part(0).size());
  return {2 * (n - 1), [=, &group](int step) -> std::vector<Transfer> {
            if (step >= n - 1) return pass_on(group, rank + 1, step - (n - 1), part);
            const auto target = part(modulo(rank - step - 1, n));
            const auto received = scratch.first(target.size());
            const auto reduce_chunk = [=](std::size_t offset, std::size_t bytes) {
              std::byte* place = target.data() + offset;
              reduction(place, received.data() + offset, place, bytes);
            };
            return {receive_from(modulo(rank - 1, n), received, reduce_chunk),
                    send_to(modulo(rank + 1, n), part(modulo(rank - step, n)))};
          }};
}

Steps ring_all_gather_steps(const Group& group, std::vector<std::span<std::byte>> parts) {
  return {group.size() - 1, [&group, parts = std::move(parts)](int step) {
            const auto part = [&](int r) { return parts[static_cast<std::size_t>(r)]; };
            return pass_on(group, group.rank(), step, part);
          }};
}

}  // namespace scalecom
