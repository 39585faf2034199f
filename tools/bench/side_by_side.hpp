#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "scalecom/session.hpp"
#include "tools/bench/options.hpp"

namespace scalecom::bench {

/// All-reduces of each size by scalecom and by MPI on the same memory in the same run, in blocks
/// that take turns. Prints the table and returns the figures; clears `is_right` when a result was
/// wrong. Throws Error(unavailable) without MPI, and what PeerLibrary throws.
nlohmann::json run_side_by_side(Session& session, const Options& options,
                                const std::vector<std::int64_t>& sizes, bool& is_right);

}  // namespace scalecom::bench
