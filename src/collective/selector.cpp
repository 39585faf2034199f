#include "collective/selector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "scalecom/status.hpp"

namespace scalecom {
namespace {

struct NamedAlgorithm {
  std::string_view name;
  AllReduceAlgorithm algorithm;
};

constexpr std::array kAlgorithms{
    NamedAlgorithm{"direct", AllReduceAlgorithm::direct},
    NamedAlgorithm{"ring", AllReduceAlgorithm::ring},
    NamedAlgorithm{"recursive_doubling", AllReduceAlgorithm::recursive_doubling},
    NamedAlgorithm{"halving_doubling", AllReduceAlgorithm::halving_doubling},
    NamedAlgorithm{"double_tree", AllReduceAlgorithm::double_tree},
};

// In the order of preference where the model sees no difference. `direct` comes first and is left
// out where the model decides: its n-1 messages at once meet at one receiver, which the model does
// not know. double_tree, the last one, has no steps.
constexpr std::array kByPreference{AllReduceAlgorithm::direct,
                                   AllReduceAlgorithm::recursive_doubling,
                                   AllReduceAlgorithm::halving_doubling, AllReduceAlgorithm::ring,
                                   AllReduceAlgorithm::double_tree};

// The memory that a direct reduce-scatter receives into is as long as its input.
constexpr std::int64_t kDirectReduceScatterBytesMax = 1 << 20;

AllReduceAlgorithm cheapest(std::span<const AllReduceAlgorithm> algorithms, std::int64_t bytes,
                            int ranks, const LinkCosts& costs) {
  if (ranks <= kDirectRanksMax) return AllReduceAlgorithm::direct;
  return *std::min_element(algorithms.begin() + 1, algorithms.end(),
                           [&](AllReduceAlgorithm a, AllReduceAlgorithm b) {
                             return all_reduce_time_s(a, bytes, ranks, costs) <
                                    all_reduce_time_s(b, bytes, ranks, costs);
                           });
}

}  // namespace

std::vector<std::string> allreduce_algorithm_names() {
  std::vector<std::string> names{"auto"};
  for (const NamedAlgorithm& named : kAlgorithms) names.emplace_back(named.name);
  names.emplace_back("mpi");
  return names;
}

std::string_view name_of(AllReduceAlgorithm algorithm) noexcept {
  for (const NamedAlgorithm& named : kAlgorithms) {
    if (named.algorithm == algorithm) return named.name;
  }
  return "unknown";
}

std::span<const AllReduceAlgorithm> all_reduce_algorithms() noexcept { return kByPreference; }

std::span<const AllReduceAlgorithm> all_reduce_algorithms_with_steps() noexcept {
  return std::span(kByPreference).first(kByPreference.size() - 1);
}

AllReduceAlgorithm select_all_reduce(std::int64_t bytes, int ranks, std::string_view name,
                                     const LinkCosts& costs) {
  for (const NamedAlgorithm& named : kAlgorithms) {
    if (named.name == name) return named.algorithm;
  }
  if (name != "auto") {
    throw Error(StatusCode::invalid_argument,
                fmt::format("all-reduce algorithm {} is not known; allowed are {}", name,
                            fmt::join(allreduce_algorithm_names(), ", ")));
  }
  return cheapest(all_reduce_algorithms(), bytes, ranks, costs);
}

AllReduceAlgorithm select_all_reduce_steps(std::int64_t bytes, int ranks, const LinkCosts& costs) {
  return cheapest(all_reduce_algorithms_with_steps(), bytes, ranks, costs);
}

BroadcastAlgorithm select_broadcast(std::int64_t bytes, int ranks, const LinkCosts& costs) {
  const auto time_s = [&](BroadcastAlgorithm algorithm) {
    return broadcast_time_s(algorithm, bytes, ranks, costs);
  };
  return time_s(BroadcastAlgorithm::binomial) <= time_s(BroadcastAlgorithm::chain)
             ? BroadcastAlgorithm::binomial
             : BroadcastAlgorithm::chain;
}

// Up to 4 ranks direct is the first half of the all-reduce there: the same bits.
ReduceScatterAlgorithm select_reduce_scatter(std::int64_t bytes, int ranks,
                                             const LinkCosts& costs) {
  if (ranks <= kDirectRanksMax) return ReduceScatterAlgorithm::direct;
  const auto time_s = [&](ReduceScatterAlgorithm algorithm) {
    return reduce_scatter_time_s(algorithm, bytes, ranks, costs);
  };
  const bool is_direct =
      bytes <= kDirectReduceScatterBytesMax &&
      time_s(ReduceScatterAlgorithm::direct) <= time_s(ReduceScatterAlgorithm::pairwise);
  return is_direct ? ReduceScatterAlgorithm::direct : ReduceScatterAlgorithm::pairwise;
}

}  // namespace scalecom
