#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/sim/world.hpp"

namespace scalecom::sim {

/// What a step of a training does besides its usual tensors: all that ends a steady state.
enum class Deviation {
  none,
  other_tensor,        ///< one more, on all ranks
  lone_tensor,         ///< one more, on one rank now and on the others some steps later
  changed_shape,       ///< of one tensor, on all ranks
  mismatch,            ///< one rank's shape differs
  changed_first_step,  ///< of a compressed tensor, on all ranks
  changed_priority,    ///< of one tensor, on all ranks
  restart,             ///< a checkpoint is restored: steps count from the start again
  barrier,
  gather,
  missing_tensor,  ///< one less, on all ranks
  chained,         ///< all wait for one tensor before they submit the rest
  pause,           ///< a rank does nothing for a while
  pause_amid,      ///< the same, with some tensors of the step submitted
  last = pause_amid
};

struct TrainingOptions {
  int tensors = 8;
  int steps = 40;
  double compressed = 0.5;
  double deviations = 0.1;                           ///< chance per step
  bool is_shuffled = true;                           ///< each rank has its own order of submits
  Duration gap_max = std::chrono::microseconds(50);  ///< between submits, in half of the steps
  Duration compute_max = std::chrono::microseconds(300);  ///< between steps
  Duration pause_max = std::chrono::milliseconds(200);
};

/// Every rank runs the same steps, in its own time and order: submits the tensors of a step, waits
/// for them, goes on. Says what each call must lead to.
class Training {
 public:
  Training(World& world, TrainingOptions options);

  void start();
  std::size_t calls_per_rank() const noexcept { return calls_; }
  /// Deviations that the steps have.
  const std::map<Deviation, int>& deviations() const noexcept { return deviations_; }

 private:
  struct Call {
    std::string name;
    TensorSignature signature;
    int odd_rank = -1;  ///< submits another shape
    bool is_waited_for = true;
    int only_rank = -1;    ///< -1: all
    int except_rank = -1;  ///< -1: none
  };
  struct Step {
    std::vector<std::vector<Call>> groups;  ///< each is submitted when the one before is complete
    std::vector<std::string> restarts;
    int paused_rank = -1;
    bool is_paused_amid = false;
    Duration pause{};
  };
  struct Progress {
    std::size_t step = 0;
    std::size_t group = 0;
    std::size_t open = 0;  ///< calls of the group that the rank waits for
    std::map<std::string, int> waited_for;
  };

  void make_steps();
  void deviate(Step& step, std::size_t number);
  void add_lone_tensor(std::size_t number);
  void expect_calls();
  void start_step(int rank);
  void start_group(int rank);
  void submit(int rank, const Call& call);
  void take_completion(int rank, const std::string& name);

  World& world_;
  TrainingOptions options_;
  std::vector<Call> usual_;
  std::vector<Step> steps_;
  std::vector<Progress> progress_;
  std::size_t calls_ = 0;
  std::map<Deviation, int> deviations_;
};

}  // namespace scalecom::sim
