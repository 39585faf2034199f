#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "collective/group.hpp"
#include "collective/transfers.hpp"

/// The algorithms, each defined in a file that gives its steps and bytes. All work in place on
/// `data`, for any number of ranks and any size, and leave bit-identical results on every rank.
/// What has Steps can also be carried out piecemeal; group, data and scratch outlive those.
namespace scalecom {

/// direct.cpp. Reduces in rank order: the result equals the serial one bit for bit.
Steps direct_steps(const Group& group, std::span<std::byte> data, const Reduction& reduction);
void direct_all_reduce(const Group& group, std::span<std::byte> data, const Reduction& reduction);

/// ring.cpp
Steps ring_steps(const Group& group, std::span<std::byte> data, const Reduction& reduction);
void ring_all_reduce(const Group& group, std::span<std::byte> data, const Reduction& reduction);

/// ring.cpp. Part r of `all` has bytes_per_rank[r] bytes; this rank's is in place.
void ring_all_gather(const Group& group, std::span<std::byte> all,
                     std::span<const std::int64_t> bytes_per_rank);

/// recursive.cpp
void recursive_doubling_all_reduce(const Group& group, std::span<std::byte> data,
                                   const Reduction& reduction);

/// recursive.cpp
void halving_doubling_all_reduce(const Group& group, std::span<std::byte> data,
                                 const Reduction& reduction);

/// double_tree.cpp
void double_tree_all_reduce(const Group& group, std::span<std::byte> data,
                            const Reduction& reduction);

/// broadcast.cpp
void binomial_broadcast(const Group& group, std::span<std::byte> data, int root);

/// broadcast.cpp
void chain_broadcast(const Group& group, std::span<std::byte> data, int root);

}  // namespace scalecom
