#pragma once

#include <chrono>
#include <functional>

#include "base/wait.hpp"
#include "collective/shm/hierarchical.hpp"
#include "collective/tuning.hpp"
#include "runtime/tuning/samples.hpp"
#include "transport/shm/board.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// How thorough: calls of which the fastest counts, after how much time nothing more is begun, and
/// over how many elements the passes go: 48 MB with residual and result, because a model's are
/// seldom in a cache; a few ms.
struct MeasurementPlan {
  int calls = 5;
  std::chrono::duration<double> budget{0.3};
  std::size_t exchange_bytes_max = 1 << 20;
  std::int64_t pass_elements = 1 << 22;

  static MeasurementPlan quick() { return {}; }
  static MeasurementPlan full() {
    return {
        .calls = 25, .budget = std::chrono::duration<double>(0.7), .exchange_bytes_max = 16 << 20};
  }
};

/// The threads that share a rank's passes: run(body) calls body(i) for each i below `count`.
/// Without it there is the caller's only.
struct PassThreads {
  int count = 1;
  std::function<void(const std::function<void(std::size_t)>&)> run = {};
};

/// These four are called by all ranks, and throw Error like the operations that they measure;
/// after one, board and transport are out of step.

/// The passes of a sharded step of `ranks`, by all ranks of the host at once.
void measure_kernels(Board& board, int ranks, const PassThreads& threads,
                     const MeasurementPlan& plan, const WaitContext& context, Samples& samples);

/// The memory of a host and the kernels. The same number of blocks on every host.
void measure_inside(Board& board, const Tuning& defaults, const MeasurementPlan& plan,
                    const WaitContext& context, Samples& samples);

/// Flat against blocks, and sizes of blocks. For ranks of one host; its first one keeps the budget.
void measure_shm_choices(Board& board, const Tuning& defaults, const MeasurementPlan& plan,
                         const WaitContext& context, Samples& samples);

/// Latency by ping-pong and bandwidth by exchange in windows, between the first ranks of
/// neighbouring hosts; the others have nothing to do.
void measure_link(Transport& transport, const HostRanks& hosts, const MeasurementPlan& plan,
                  const WaitContext& context, Samples& samples);

}  // namespace scalecom
