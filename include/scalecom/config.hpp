#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "scalecom/export.hpp"

namespace scalecom {

/// Every setting of a session. Defaults are the struct's; from_environment() reads the
/// environment once. docs/configuration.md is generated from the same table, whose bounds hold for
/// what a program sets, too: see Session::connect().
struct SCALECOM_API Config {
  /// Bytes that one fused batch may hold. 0 turns fusion off.
  std::int64_t fusion_threshold_bytes = 128LL << 20;
  /// Longest time in milliseconds that a batch which is not full waits for tensors that are known
  /// to be on their way; negative: adaptive. Never a sleep when all known tensors are in.
  double cycle_time_ms = -1.0;
  /// Tensors whose agreement is remembered, so that they are negotiated by number.
  std::int64_t cache_capacity = 16384;
  /// After this many equal steps in a row the ranks repeat them without negotiating; 0: never.
  std::int64_t steady_steps = 3;
  /// true: a tensor that some ranks submitted and others did not is not reported. Else it is:
  bool stall_check_disable = false;
  double stall_check_time_s = 60.0;  ///< after this time
  /// ... and ends the session with an error after this time. 0: never.
  double stall_shutdown_time_s = 0.0;
  /// Longest time for the ranks to find each other at init.
  double connect_timeout_s = 60.0;
  /// host:port at which the ranks of a job without MPI meet; empty: MASTER_ADDR and a port above
  /// MASTER_PORT.
  std::string rendezvous;
  /// What ranks must know to be let in there.
  std::string rendezvous_key;
  /// Longest time one collective may take before its session fails.
  double collective_timeout_s = 600.0;
  /// A peer that stops answering on the network (no reset, no end of stream) is lost after this.
  double peer_timeout_s = 5.0;
  /// auto, or the name of one algorithm for every all-reduce (docs/algorithms.md).
  std::string allreduce_algorithm = "auto";
  /// auto, nccl or host: what carries tensors on CUDA devices.
  std::string cuda_collectives = "auto";
  /// Path of NCCL's library; empty: the one that the process has, else nccl_offered, else the
  /// system's.
  std::string nccl_library;
  /// Not a setting: the NCCL that the program's environment brings, as PyPI's nvidia-nccl-cu* does;
  /// empty: none.
  std::string nccl_offered;
  /// cyclic, sharded, hierarchical or auto: the mode of tensors with CompressionMode::by_setting.
  std::string mode = "sharded";
  /// Threads that work on a large compressed batch, the session's own among them.
  std::int64_t compress_threads = 1;
  /// The last of every so many steps of a compressed tensor is sampled for CompressionHealth; 0:
  /// none.
  std::int64_t health_steps = 100;
  /// CSV file that rank 0 appends the sampled figures to; empty: none.
  std::string health_file;
  /// File of the timeline, a Chrome trace, that rank 0 writes from init on; with {rank} in it,
  /// every rank its own. DYNAMIC or empty: none before Session::start_timeline().
  std::string timeline;
  /// ... with a mark for each agreement.
  bool timeline_mark_cycles = false;
  /// What the collectives choose by is measured at init: off, quick (up to 1 s) or full (2 s).
  std::string tune = "quick";
  /// Where measured figures are kept; empty: nowhere. There is no variable for it:
  /// from_environment() takes $XDG_CACHE_HOME/scalecom, or ~/.cache/scalecom where XDG_CACHE_HOME
  /// is not set.
  std::string cache_directory;
  /// Rank 0 tries fusion thresholds and cycle times while the job runs, those that are not set, and
  /// all ranks keep the best.
  bool autotune = false;
  /// CSV file that rank 0 appends its samples to; empty: none.
  std::string autotune_log;
  /// Samples that are thrown away first.
  std::int64_t autotune_warmup_samples = 3;
  /// A sample's figure is the median over so many steps.
  std::int64_t autotune_steps_per_sample = 10;
  /// Samples of the search. Six more compare its result with what the job began with.
  std::int64_t autotune_bayes_opt_max_samples = 20;
  /// Standard deviation of a sample's noise, for samples whose own is 1.
  double autotune_gaussian_process_noise = 0.8;
  /// Ranks of one host exchange data through shared memory.
  bool shared_memory = true;
  /// Tensors submitted and not yet completed, at most; a further submit is refused.
  std::int64_t queue_capacity = 1 << 20;
  /// trace, debug, info, warning, error, fatal, off.
  std::string log_level = "warning";

  /// Where each value came from ("SCALECOM_X", "HOROVOD_X", "autotune"), by variable name without
  /// prefix; absent: the default.
  std::map<std::string, std::string> sources;

  /// Reads SCALECOM_X, then HOROVOD_X. Throws Error(invalid_argument) naming the variable, its
  /// value and what is allowed.
  static Config from_environment();
};

/// One row of the settings table with its current value, for people and tools.
struct SettingReport {
  std::string variable;  ///< SCALECOM_CYCLE_TIME
  std::string value;
  std::string default_value;
  std::string unit;
  std::string allowed;
  std::string source;  ///< default, or the variable that was read
  std::string description;
  bool has_effect = true;  ///< false: accepted for Horovod's sake, without effect in this version
};

/// Every setting with its value in `config` and where it came from, in the table's order.
SCALECOM_API std::vector<SettingReport> describe_settings(const Config& config);

/// The settings table as the text of docs/configuration.md.
SCALECOM_API std::string settings_markdown();

}  // namespace scalecom
