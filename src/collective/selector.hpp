#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collective/cost_model.hpp"

namespace scalecom {

/// What SCALECOM_ALLREDUCE_ALGORITHM may be: "auto", the algorithms above by name, and "mpi" (MPI's
/// own collectives, which the session uses instead of this library's).
std::vector<std::string> allreduce_algorithm_names();

std::string_view name_of(AllReduceAlgorithm algorithm) noexcept;

/// The algorithm for an all-reduce of `bytes` on `ranks`; `name` "auto" is the one that takes the
/// least time by the model, but up to kDirectRanksMax ranks `direct`; any other of
/// allreduce_algorithm_names() but "mpi" is taken as it is. Pure. Throws Error(invalid_argument)
/// with the allowed names.
AllReduceAlgorithm select_all_reduce(std::int64_t bytes, int ranks, std::string_view name,
                                     const LinkCosts& costs = {});

/// The algorithm for one of several vectors that are reduced piecemeal at once: one with steps.
AllReduceAlgorithm select_all_reduce_steps(std::int64_t bytes, int ranks,
                                           const LinkCosts& costs = {});

BroadcastAlgorithm select_broadcast(std::int64_t bytes, int ranks, const LinkCosts& costs = {});

/// `bytes` of a rank's whole input.
ReduceScatterAlgorithm select_reduce_scatter(std::int64_t bytes, int ranks,
                                             const LinkCosts& costs = {});

/// Up to here ranks reduce directly, which equals a serial sum bit for bit
/// (docs/decisions/0005-direct-all-reduce-for-few-ranks.md).
inline constexpr int kDirectRanksMax = 4;

/// All of them, `direct` first; and those that can be carried out piecemeal.
std::span<const AllReduceAlgorithm> all_reduce_algorithms() noexcept;
std::span<const AllReduceAlgorithm> all_reduce_algorithms_with_steps() noexcept;

}  // namespace scalecom
