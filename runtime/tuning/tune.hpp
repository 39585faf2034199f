#pragma once

#include <string>

#include "collective/shm/hierarchical.hpp"
#include "collective/tuning.hpp"
#include "runtime/tuning/measure.hpp"
#include "runtime/tuning/tuning_file.hpp"
#include "transport/bootstrap.hpp"
#include "transport/shm/board.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// What is measured, and by what.
struct TuningTask {
  Bootstrap& bootstrap;
  Transport& transport;
  Board& board;
  const HostRanks& hosts;  ///< as the collectives see them
  const Tuning& defaults;  ///< what holds where nothing is measured
  TuningKey key;
  MeasurementPlan plan = MeasurementPlan::quick();
  PassThreads threads = {};
  std::string cache_directory;   ///< of the measured figures; empty: none are kept
  Bootstrap::Limit limit{60.0};  ///< of the measurement, and of waiting for a rank
};

/// The tuning, the same on all ranks.
struct TuningResult {
  Tuning tuning;
  std::string source;  ///< "defaults", "measured now", "file PATH"
  /// A wait failed, and the tuning is the default: board and transport are to be made anew.
  bool is_out_of_step = false;
};

/// What rank 0 finds in the cache, else what all ranks measure now, which rank 0 then puts there.
/// Called by all ranks, before anything else uses board and transport. What goes wrong with file or
/// measurement is logged by rank 0, never thrown; ranks_missing() is.
TuningResult tune(const TuningTask& task);

}  // namespace scalecom
