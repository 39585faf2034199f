#include "collective/message_collectives.hpp"

#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.hpp"
#include "collective/algorithms.hpp"
#include "collective/selector.hpp"

namespace scalecom {

MessageCollectives::MessageCollectives(Transport& transport, std::string allreduce_algorithm)
    : transport_(transport), allreduce_algorithm_(std::move(allreduce_algorithm)) {
  select_all_reduce(0, transport.size(), allreduce_algorithm_);
}

void MessageCollectives::all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                                    const WaitContext& context) {
  const Group group{transport_, scratch_, context};
  const Reduction reduction{dtype, op};
  const auto bytes = static_cast<std::int64_t>(data.size());
  switch (select_all_reduce(bytes, group.size(), allreduce_algorithm_)) {
    case AllReduceAlgorithm::direct: return direct_all_reduce(group, data, reduction);
    case AllReduceAlgorithm::ring: return ring_all_reduce(group, data, reduction);
    case AllReduceAlgorithm::recursive_doubling:
      return recursive_doubling_all_reduce(group, data, reduction);
    case AllReduceAlgorithm::halving_doubling:
      return halving_doubling_all_reduce(group, data, reduction);
    case AllReduceAlgorithm::double_tree: return double_tree_all_reduce(group, data, reduction);
  }
}

void MessageCollectives::broadcast(std::span<std::byte> data, int root,
                                   const WaitContext& context) {
  const Group group{transport_, scratch_, context};
  switch (select_broadcast(static_cast<std::int64_t>(data.size()), group.size())) {
    case BroadcastAlgorithm::binomial: return binomial_broadcast(group, data, root);
    case BroadcastAlgorithm::chain: return chain_broadcast(group, data, root);
  }
}

void MessageCollectives::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                    std::span<const std::int64_t> bytes_per_rank,
                                    const WaitContext& context) {
  const Group group{transport_, scratch_, context};
  const auto rank = static_cast<std::size_t>(group.rank());
  const auto before = bytes_per_rank.first(rank);
  const auto begin = std::accumulate(before.begin(), before.end(), std::int64_t{0});
  const auto place = all.subspan(static_cast<std::size_t>(begin), mine.size());
  SCALECOM_ASSERT(
      static_cast<std::int64_t>(mine.size()) == bytes_per_rank[rank],
      std::to_string(mine.size()) + " bytes, " + std::to_string(bytes_per_rank[rank]) + " agreed");
  if (!mine.empty() && mine.data() != place.data()) {
    std::memcpy(place.data(), mine.data(), mine.size());
  }
  ring_all_gather(group, all, bytes_per_rank);
}

}  // namespace scalecom
