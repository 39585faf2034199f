#include "collective/shm/board_collectives.hpp"

#include <utility>
#include <variant>

#include "collective/group.hpp"

namespace scalecom {

void BoardCollectives::all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                                  const WaitContext& context) {
  all_reduce_pieces(AllReduceBatch::in_place(data, dtype, op), context);
}

void BoardCollectives::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                  std::span<const std::int64_t> bytes_per_rank,
                                  const WaitContext& context) {
  place_own(mine, cut(all, bytes_per_rank)[static_cast<std::size_t>(rank())]);
  wait_for(start_all_gather({all, {bytes_per_rank.begin(), bytes_per_rank.end()}}), context,
           "all-gather");
}

void BoardCollectives::enqueue(Operation operation) {
  std::visit([this](auto&& batch) { start(std::forward<decltype(batch)>(batch)); },
             std::move(operation));
}

}  // namespace scalecom
