#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scalecom/compression.hpp"

namespace scalecom {

/// How a session carries out an all-reduce of one size, and what else it could have done.
struct AllReduceExplanation {
  /// One way to do it. The time is the cost model's estimate from the session's figures.
  struct Alternative {
    std::string name;
    double time_us = 0.0;
    bool is_chosen = false;
  };

  std::int64_t bytes = 0;
  std::string level;                  ///< "inside the host", "between hosts", "messages", "mpi"
  std::string algorithm;              ///< "flat", "blocks", or that of the messages
  std::int64_t block_bytes = 0;       ///< the whole, where it is not cut
  std::int64_t blocks = 0;            ///< that it is cut into
  std::int64_t blocks_under_way = 0;  ///< of them, at once
  std::vector<Alternative> alternatives;
};

/// What a session does with one compressed tensor after warm-up and ramp, and why.
struct CompressionExplanation {
  /// One way to do it.
  struct Alternative {
    CompressionMode mode = CompressionMode::none;
    /// The tensor's share of its batch by the cost model: see docs/algorithms.md.
    double time_us = 0.0;
    double bytes_sent = 0.0;  ///< by a rank in a step, averaged over steps in which all have led
    bool is_chosen = false;
  };

  std::int64_t count = 0;
  CompressionMode mode = CompressionMode::none;  ///< never by_setting or automatic
  std::int64_t rate = 1;
  std::int64_t selected = 0;  ///< elements that a rank sends the values of
  std::vector<Alternative> alternatives;
  std::string reason;  ///< in words
};

}  // namespace scalecom
