#include "collective/selector.hpp"

#include <fmt/format.h>

#include <array>
#include <limits>

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

constexpr int kAnyRanks = std::numeric_limits<int>::max();
constexpr std::int64_t kAnyBytes = std::numeric_limits<std::int64_t>::max();

// The first row that holds. With steps x alpha + bytes / B (docs/algorithms.md): direct has the
// fewest steps and the fewest bytes, but n-1 messages at once, so it is for a few ranks, where it
// also reduces in rank order. Doubling sends log2(n) S in half the steps of halving-doubling: it
// pays while alpha outweighs S/B, about 8 KiB at 10 us and 1 GB/s. A ring's 2(n-1) steps pay only
// for vectors that keep every link busy, and when n is no power of two, where folding costs S more.
struct Row {
  int ranks_max;
  std::int64_t bytes_max;
  AllReduceAlgorithm algorithm;
};
constexpr std::array kAllReduceTable{
    Row{4, kAnyBytes, AllReduceAlgorithm::direct},
    Row{kAnyRanks, 8 << 10, AllReduceAlgorithm::recursive_doubling},
    Row{kAnyRanks, 1 << 20, AllReduceAlgorithm::halving_doubling},
    Row{32, kAnyBytes, AllReduceAlgorithm::ring},
    Row{kAnyRanks, 64 << 20, AllReduceAlgorithm::double_tree},
    Row{kAnyRanks, kAnyBytes, AllReduceAlgorithm::ring},
};

// Binomial sends log2(n) S from the root, a chain S from everyone with n-2 chunks of delay.
constexpr std::int64_t kBinomialBytesMax = 256 << 10;

// Direct takes one step and as much memory as the input; pairwise n-1 steps, which reduce while
// they receive. Up to 4 ranks direct is the first half of the all-reduce there: the same bits.
constexpr int kDirectReduceScatterRanksMax = 4;
constexpr std::int64_t kDirectReduceScatterBytesMax = 256 << 10;

}  // namespace

std::vector<std::string> allreduce_algorithm_names() {
  std::vector<std::string> names{"auto"};
  for (const NamedAlgorithm& named : kAlgorithms) names.emplace_back(named.name);
  names.emplace_back("mpi");
  return names;
}

AllReduceAlgorithm select_all_reduce(std::int64_t bytes, int ranks, std::string_view name) {
  for (const NamedAlgorithm& named : kAlgorithms) {
    if (named.name == name) return named.algorithm;
  }
  if (name != "auto") {
    throw Error(StatusCode::invalid_argument,
                fmt::format("all-reduce algorithm {} is not known; allowed are {}", name,
                            fmt::join(allreduce_algorithm_names(), ", ")));
  }
  for (const Row& row : kAllReduceTable) {
    if (ranks <= row.ranks_max && bytes <= row.bytes_max) return row.algorithm;
  }
  return AllReduceAlgorithm::ring;
}

AllReduceAlgorithm select_all_reduce_steps(std::int64_t bytes, int ranks) {
  const AllReduceAlgorithm algorithm = select_all_reduce(bytes, ranks, "auto");
  return algorithm == AllReduceAlgorithm::double_tree ? AllReduceAlgorithm::halving_doubling
                                                      : algorithm;
}

BroadcastAlgorithm select_broadcast(std::int64_t bytes, int ranks) {
  const bool is_short = bytes <= kBinomialBytesMax || ranks <= 2;
  return is_short ? BroadcastAlgorithm::binomial : BroadcastAlgorithm::chain;
}

ReduceScatterAlgorithm select_reduce_scatter(std::int64_t bytes, int ranks) {
  const bool is_direct =
      ranks <= kDirectReduceScatterRanksMax || bytes <= kDirectReduceScatterBytesMax;
  return is_direct ? ReduceScatterAlgorithm::direct : ReduceScatterAlgorithm::pairwise;
}

}  // namespace scalecom
