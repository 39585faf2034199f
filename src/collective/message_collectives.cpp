#include "collective/message_collectives.hpp"

#include <utility>
#include <vector>

#include "base/error.hpp"
#include "collective/algorithms.hpp"
#include "collective/selector.hpp"

namespace scalecom {

MessageCollectives::MessageCollectives(Transport& transport, std::string allreduce_algorithm,
                                       const LinkCosts& costs)
    : transport_(transport), allreduce_algorithm_(std::move(allreduce_algorithm)), costs_(costs) {
  select_all_reduce(0, transport.size(), allreduce_algorithm_);
}

void MessageCollectives::all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                                    const WaitContext& context) {
  const Group group{transport_, scratch_, context};
  const auto bytes = static_cast<std::int64_t>(data.size());
  run_all_reduce(select_all_reduce(bytes, group.size(), allreduce_algorithm_, costs_), group, data,
                 {dtype, op});
}

AllReduceExplanation MessageCollectives::explain_all_reduce(std::int64_t bytes) const {
  AllReduceExplanation explanation = Collectives::explain_all_reduce(bytes);
  const int ranks = transport_.size();
  const AllReduceAlgorithm chosen = select_all_reduce(bytes, ranks, allreduce_algorithm_, costs_);
  explanation.algorithm = name_of(chosen);
  for (const AllReduceAlgorithm algorithm : all_reduce_algorithms()) {
    explanation.alternatives.push_back({std::string(name_of(algorithm)),
                                        1e6 * all_reduce_time_s(algorithm, bytes, ranks, costs_),
                                        algorithm == chosen});
  }
  return explanation;
}

void MessageCollectives::broadcast(std::span<std::byte> data, int root,
                                   const WaitContext& context) {
  const Group group{transport_, scratch_, context};
  switch (select_broadcast(static_cast<std::int64_t>(data.size()), group.size(), costs_)) {
    case BroadcastAlgorithm::binomial: return binomial_broadcast(group, data, root);
    case BroadcastAlgorithm::chain: return chain_broadcast(group, data, root);
  }
}

void MessageCollectives::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                    std::span<const std::int64_t> bytes_per_rank,
                                    const WaitContext& context) {
  const Group group{transport_, scratch_, context};
  std::vector<std::span<std::byte>> parts = cut(all, bytes_per_rank);
  place_own(mine, parts[static_cast<std::size_t>(group.rank())]);
  run_steps(group, ring_all_gather_steps(group, std::move(parts)), "ring all-gather");
}

void MessageCollectives::reduce_scatter(std::span<std::byte> data,
                                        std::span<const std::int64_t> bytes_per_rank,
                                        DataType dtype, ReduceOp op, const WaitContext& context) {
  const Group group{transport_, scratch_, context};
  const Reduction reduction{dtype, op};
  const auto parts = cut(data, bytes_per_rank);
  switch (select_reduce_scatter(static_cast<std::int64_t>(data.size()), group.size(), costs_)) {
    case ReduceScatterAlgorithm::direct: return direct_reduce_scatter(group, parts, reduction);
    case ReduceScatterAlgorithm::pairwise: return pairwise_reduce_scatter(group, parts, reduction);
  }
}

void MessageCollectives::all_to_all(std::span<const std::byte> send,
                                    std::span<const std::int64_t> send_bytes,
                                    std::span<std::byte> receive,
                                    std::span<const std::int64_t> receive_bytes,
                                    const WaitContext& context) {
  const auto rank = static_cast<std::size_t>(transport_.rank());
  SCALECOM_ASSERT(send_bytes[rank] == receive_bytes[rank],
                  std::to_string(send_bytes[rank]) + " bytes to itself, " +
                      std::to_string(receive_bytes[rank]) + " from itself");
  pairwise_all_to_all({transport_, scratch_, context}, cut(send, send_bytes),
                      cut(receive, receive_bytes));
}

}  // namespace scalecom
