#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "collective/group.hpp"
#include "collective/selector.hpp"
#include "collective/transfers.hpp"

/// The algorithms, each defined in a file that gives its steps and bytes. For any number of ranks
/// and any size; in place, but for all-to-all. What every rank gets is bit-identical.
/// What has Steps can also be carried out piecemeal; group, data and scratch outlive those.
namespace scalecom {

/// direct.cpp. Up to here one step with more bytes is faster than two: a message costs about as
/// much as 2 KiB.
inline constexpr std::size_t kDirectWholeBytesMax = 2048;

/// double_tree.cpp. What travels up and down a tree at once.
inline constexpr std::size_t kTreeChunkBytes = 16 * 1024;

/// all_reduce.cpp. The steps of one algorithm: any but double_tree, which has none.
Steps all_reduce_steps(AllReduceAlgorithm algorithm, const Group& group, std::span<std::byte> data,
                       const Reduction& reduction);

/// all_reduce.cpp. Carries out any of them.
void run_all_reduce(AllReduceAlgorithm algorithm, const Group& group, std::span<std::byte> data,
                    const Reduction& reduction);

/// direct.cpp. Reduces in rank order: the result equals the serial one bit for bit.
Steps direct_steps(const Group& group, std::span<std::byte> data, const Reduction& reduction);

/// direct.cpp. parts[r] is reduced on rank r, in rank order; the others are unspecified afterwards.
void direct_reduce_scatter(const Group& group, std::span<const std::span<std::byte>> parts,
                           const Reduction& reduction);

/// pairwise.cpp. As direct_reduce_scatter(), in an order that depends on the rank.
void pairwise_reduce_scatter(const Group& group, std::span<const std::span<std::byte>> parts,
                             const Reduction& reduction);

/// pairwise.cpp. receive[p] = what rank p has in its send[this rank].
void pairwise_all_to_all(const Group& group, std::span<const std::span<const std::byte>> send,
                         std::span<const std::span<std::byte>> receive);

/// ring.cpp
Steps ring_steps(const Group& group, std::span<std::byte> data, const Reduction& reduction);

/// ring.cpp. parts[r] becomes that of rank r; this rank's is in place.
Steps ring_all_gather_steps(const Group& group, std::vector<std::span<std::byte>> parts);

/// recursive.cpp
Steps recursive_doubling_steps(const Group& group, std::span<std::byte> data,
                               const Reduction& reduction);

/// recursive.cpp
Steps halving_doubling_steps(const Group& group, std::span<std::byte> data,
                             const Reduction& reduction);

/// double_tree.cpp
void double_tree_all_reduce(const Group& group, std::span<std::byte> data,
                            const Reduction& reduction);

/// broadcast.cpp
void binomial_broadcast(const Group& group, std::span<std::byte> data, int root);

/// broadcast.cpp
void chain_broadcast(const Group& group, std::span<std::byte> data, int root);

}  // namespace scalecom
