#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace scalecom {

enum class AllReduceAlgorithm { direct, ring, recursive_doubling, halving_doubling, double_tree };
enum class BroadcastAlgorithm { binomial, chain };
enum class ReduceScatterAlgorithm { direct, pairwise };

/// What SCALECOM_ALLREDUCE_ALGORITHM may be: "auto", the algorithms above by name, and "mpi" (MPI's
/// own collectives, which the session uses instead of this library's).
std::vector<std::string> allreduce_algorithm_names();

/// The algorithm for an all-reduce of `bytes` on `ranks`; `name` "auto" asks the table, any other
/// of allreduce_algorithm_names() but "mpi" is taken as it is. Pure. Throws
/// Error(invalid_argument) with the allowed names.
AllReduceAlgorithm select_all_reduce(std::int64_t bytes, int ranks, std::string_view name);

/// The algorithm for one of several vectors that are reduced piecemeal at once: one with steps.
AllReduceAlgorithm select_all_reduce_steps(std::int64_t bytes, int ranks);

BroadcastAlgorithm select_broadcast(std::int64_t bytes, int ranks);

/// `bytes` of a rank's whole input.
ReduceScatterAlgorithm select_reduce_scatter(std::int64_t bytes, int ranks);

}  // namespace scalecom
