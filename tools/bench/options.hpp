#pragma once

#include <cstdint>
#include <string>

#include "scalecom/compression.hpp"
#include "scalecom/session.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom::bench {

/// The command line; flags are those of nccl-tests where it has them.
struct Options {
  std::string operation = "all_reduce";
  std::int64_t min_bytes = 4;
  std::int64_t max_bytes = 16 << 20;
  std::int64_t step_bytes = 0;  ///< added; 0: multiply by factor
  double factor = 4.0;
  int iterations = 20;
  int warmup = 5;
  bool check = true;
  DataType dtype = DataType::float32;
  ReduceOp op = ReduceOp::sum;
  int root = 0;
  std::string json_path;
  std::int64_t rate = 100;
  double beta = 1.0;
  CompressionMode mode = CompressionMode::by_setting;
  DataType values = DataType::float32;  ///< on the wire
  int latency_calls = 0;
  int burst_tensors = 0;
  std::int64_t burst_bytes = 16 << 10;
  double idle_s = 0.0;
  bool explains = false;    ///< what the session chooses for each size
  bool with_peers = false;  ///< MPI's all-reduce beside scalecom's
  int blocks = 5;           ///< of calls, in which the two take turns

  AllReduceOptions reduction() const {
    AllReduceOptions reduction;
    reduction.op = op;
    return reduction;
  }
};

/// Parses, or ends the process as CLI11 does for --help and for errors.
Options parse_options(int argc, char** argv);

}  // namespace scalecom::bench
