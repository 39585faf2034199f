#pragma once

#include <cstdint>

/// Estimated times of the algorithms, pure. Hockney's model (R. W. Hockney, "The communication
/// challenge for MPP", Parallel Computing 20, 1994): a message of S bytes takes alpha + S/B, in
/// both directions at once, and gamma seconds reduce a byte. The steps and bytes are those of
/// docs/algorithms.md; the model knows no link that several messages share.
namespace scalecom {

enum class AllReduceAlgorithm { direct, ring, recursive_doubling, halving_doubling, double_tree };
enum class BroadcastAlgorithm { binomial, chain };
enum class ReduceScatterAlgorithm { direct, pairwise };

/// Of messages between two ranks. The defaults are those of a 10 Gbit/s network.
struct LinkCosts {
  double latency_s = 10e-6;         ///< alpha
  double bytes_per_s = 1e9;         ///< B, each way
  double reduce_bytes_per_s = 8e9;  ///< 1 / gamma

  bool operator==(const LinkCosts&) const = default;
};

/// Of the shared memory of one host.
struct InsideCosts {
  double latency_s = 2e-6;         ///< an all-reduce of a few bytes: one step
  double copy_bytes_per_s = 10e9;  ///< read by each of the ranks while all are at it

  bool operator==(const InsideCosts&) const = default;
};

/// Chunk length C at which the passes of a compressed step are measured, and a far shorter one, so
/// that what a selected element takes is no difference of two large times.
inline constexpr std::int64_t kPassChunk = 100;
inline constexpr std::int64_t kShortChunk = 8;

/// Of the passes of a compressed step over a tensor, by a rank's threads while all ranks of the
/// host are at it. The defaults are those of 10 GB/s a rank.
struct KernelCosts {
  double swept_elements_per_s = 0.8e9;   ///< selects and updates the residual, 12 bytes each
  double filled_elements_per_s = 2.5e9;  ///< writes the result, 4 bytes each
  double taken_elements_per_s =
      0.2e9;  ///< selected ones, beside the two; C = 100 has its own in them

  bool operator==(const KernelCosts&) const = default;
};

/// KernelCosts::taken_elements_per_s from seconds an element of both passes together, over chunks
/// of kPassChunk and of kShortChunk: what these take more, for each element that they select more.
/// Noise may hide it; what a swept element takes is left, never less: a selected one moves 20 bytes
/// of value, kept value and offset in both passes, a swept one 12.
double taken_elements_per_s(double swept_s, double passes_s, double short_passes_s);

/// Seconds for `bytes` of each of `ranks`.
double all_reduce_time_s(AllReduceAlgorithm algorithm, std::int64_t bytes, int ranks,
                         const LinkCosts& costs);
double broadcast_time_s(BroadcastAlgorithm algorithm, std::int64_t bytes, int ranks,
                        const LinkCosts& costs);
/// `bytes` of a rank's whole input.
double reduce_scatter_time_s(ReduceScatterAlgorithm algorithm, std::int64_t bytes, int ranks,
                             const LinkCosts& costs);

/// All-reduce in shared memory: every rank reads everything in one step, or three steps that read
/// about 3 S (shm_operation.hpp).
double flat_time_s(std::int64_t bytes, int ranks, const InsideCosts& costs);
double blocks_time_s(std::int64_t bytes, const InsideCosts& costs);

/// An all-reduce between hosts in blocks, of which `blocks_under_way` overlap.
struct BlockPipeline {
  AllReduceAlgorithm algorithm = AllReduceAlgorithm::direct;
  int hosts = 1;
  std::int64_t block_bytes = 1;
  int blocks_under_way = 1;
};

/// The first block is copied in before anything travels and the last one out after, S' bytes each;
/// in between, a block takes as long as its bytes, or as its share of a latency that
/// `blocks_under_way` blocks hide together.
double pipeline_time_s(const BlockPipeline& pipeline, std::int64_t bytes, const LinkCosts& link,
                       const InsideCosts& inside);

}  // namespace scalecom
