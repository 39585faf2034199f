#include "collective/cost_model.hpp"

#include <algorithm>
#include <bit>

#include "collective/algorithms.hpp"

namespace scalecom {
namespace {

// The terms of one size: S/B and S gamma.
struct Terms {
  Terms(std::int64_t bytes, const LinkCosts& costs)
      : travel_s(static_cast<double>(bytes) / costs.bytes_per_s),
        reduce_s(static_cast<double>(bytes) / costs.reduce_bytes_per_s) {}
  double travel_s;
  double reduce_s;
};

int log2_floor(int n) { return std::bit_width(static_cast<unsigned>(n)) - 1; }
int log2_ceil(int n) { return std::bit_width(static_cast<unsigned>(n - 1)); }

// (n-1)/n: what travels of a vector of which every rank has a part.
double others_share(int n) { return static_cast<double>(n - 1) / n; }

// Ranks beyond the largest power of two hand their data to a partner before and get the result
// after: 2 steps and S more each way (recursive.cpp).
double fold_time_s(int n, const Terms& terms, const LinkCosts& costs) {
  const bool is_power_of_two = std::has_single_bit(static_cast<unsigned>(n));
  return is_power_of_two ? 0.0 : 2 * (costs.latency_s + terms.travel_s) + terms.reduce_s;
}

// direct.cpp: 1 step of (n-1) S, or 2 steps of (n-1)/n S; the n-1 messages start at once.
double direct_time_s(std::int64_t bytes, int n, const Terms& terms, const LinkCosts& costs) {
  if (bytes <= static_cast<std::int64_t>(kDirectWholeBytesMax)) {
    return costs.latency_s + (n - 1) * (terms.travel_s + terms.reduce_s);
  }
  return 2 * costs.latency_s + others_share(n) * (2 * terms.travel_s + terms.reduce_s);
}

// double_tree.cpp: 2 log2(n) chunks of delay, then S up and S down, and an inner rank reduces what
// two children send.
double double_tree_time_s(std::int64_t bytes, int n, const Terms& terms, const LinkCosts& costs) {
  const std::int64_t chunk =
      std::min<std::int64_t>(bytes, static_cast<std::int64_t>(kTreeChunkBytes));
  return 2 * log2_ceil(n) * (costs.latency_s + Terms(chunk, costs).travel_s) + 2 * terms.travel_s +
         terms.reduce_s;
}

}  // namespace

// Ring, halving-doubling: Thakur, Rabenseifner, Gropp, "Optimization of collective communication
// operations in MPICH", IJHPCA 19, 2005. Double tree: Sanders, Speck, Traeff 2009.
double all_reduce_time_s(AllReduceAlgorithm algorithm, std::int64_t bytes, int ranks,
                         const LinkCosts& costs) {
  if (ranks <= 1) return 0.0;
  const Terms terms(bytes, costs);
  const int levels = log2_floor(ranks);
  switch (algorithm) {
    case AllReduceAlgorithm::direct: return direct_time_s(bytes, ranks, terms, costs);
    case AllReduceAlgorithm::ring:
      return 2 * (ranks - 1) * costs.latency_s +
             others_share(ranks) * (2 * terms.travel_s + terms.reduce_s);
    case AllReduceAlgorithm::recursive_doubling:
      return levels * (costs.latency_s + terms.travel_s + terms.reduce_s) +
             fold_time_s(ranks, terms, costs);
    case AllReduceAlgorithm::halving_doubling:
      return 2 * levels * costs.latency_s +
             others_share(1 << levels) * (2 * terms.travel_s + terms.reduce_s) +
             fold_time_s(ranks, terms, costs);
    case AllReduceAlgorithm::double_tree: return double_tree_time_s(bytes, ranks, terms, costs);
  }
  return 0.0;
}

// broadcast.cpp: ceil(log2 n) times everything; or n-2 chunks of delay and everything once.
double broadcast_time_s(BroadcastAlgorithm algorithm, std::int64_t bytes, int ranks,
                        const LinkCosts& costs) {
  if (ranks <= 1) return 0.0;
  const double travel_s = Terms(bytes, costs).travel_s;
  if (algorithm == BroadcastAlgorithm::binomial) {
    return log2_ceil(ranks) * (costs.latency_s + travel_s);
  }
  const auto chunk = std::min<std::int64_t>(bytes, static_cast<std::int64_t>(kChunkBytes));
  return (ranks - 2) * (costs.latency_s + Terms(chunk, costs).travel_s) + costs.latency_s +
         travel_s;
}

// direct.cpp: 1 step, then the reduction. pairwise.cpp: n-1 steps that reduce while they receive.
double reduce_scatter_time_s(ReduceScatterAlgorithm algorithm, std::int64_t bytes, int ranks,
                             const LinkCosts& costs) {
  if (ranks <= 1) return 0.0;
  const Terms terms(bytes, costs);
  if (algorithm == ReduceScatterAlgorithm::direct) {
    return costs.latency_s + others_share(ranks) * (terms.travel_s + terms.reduce_s);
  }
  return (ranks - 1) * costs.latency_s +
         others_share(ranks) * std::max(terms.travel_s, terms.reduce_s);
}

double taken_elements_per_s(double swept_s, double passes_s, double short_passes_s) {
  constexpr double kMoreSelected = 1.0 / kShortChunk - 1.0 / kPassChunk;
  return 1.0 / std::max((short_passes_s - passes_s) / kMoreSelected, swept_s);
}

double flat_time_s(std::int64_t bytes, int ranks, const InsideCosts& costs) {
  return costs.latency_s + ranks * static_cast<double>(bytes) / costs.copy_bytes_per_s;
}

double blocks_time_s(std::int64_t bytes, const InsideCosts& costs) {
  return 3 * (costs.latency_s + static_cast<double>(bytes) / costs.copy_bytes_per_s);
}

double pipeline_time_s(const BlockPipeline& pipeline, std::int64_t bytes, const LinkCosts& link,
                       const InsideCosts& inside) {
  const std::int64_t block = std::max<std::int64_t>(1, std::min(bytes, pipeline.block_bytes));
  const auto blocks = static_cast<double>((std::max<std::int64_t>(bytes, 1) + block - 1) / block);
  const double whole_s = all_reduce_time_s(pipeline.algorithm, block, pipeline.hosts, link);
  const double latency_s = all_reduce_time_s(pipeline.algorithm, 0, pipeline.hosts, link);
  const double next_s = std::max(whole_s - latency_s, whole_s / pipeline.blocks_under_way);
  const double copies_s = 2 * static_cast<double>(block) / inside.copy_bytes_per_s;
  return 2 * inside.latency_s + copies_s + whole_s + (blocks - 1) * next_s;
}

}  // namespace scalecom
