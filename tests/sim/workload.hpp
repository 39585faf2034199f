#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/sim/world.hpp"

namespace scalecom::sim {

struct WorkloadOptions {
  int tensors = 10;
  int calls = 6;  ///< of each tensor, on each rank
  /// Chances per call.
  double shape_changes = 0.05;
  double mismatches = 0.03;
  double first_step_changes = 0.03;
  double priority_changes = 0.1;
  /// True: a rank starts its next call of a name when the last one completes, whatever the other
  /// tensors do. False: it submits all tensors of a step, and the next step's when all completed.
  bool is_pipelined = false;
  /// Between submits of a rank; bursts have no gap.
  Duration gap_max = std::chrono::microseconds(300);
  double bursts = 0.7;  ///< chance that there is no gap
  /// This rank starts later.
  int late_rank = -1;
  Duration late_by{};
};

/// Calls of many tensors on all ranks of a world, and what each must lead to. Drives the ranks
/// until all calls are made or the session ends.
class Workload {
 public:
  Workload(World& world, WorkloadOptions options);

  void start();
  std::size_t calls_per_rank() const noexcept;

 private:
  struct Call {
    TensorSignature signature;
    TensorSignature odd;  ///< what the odd ranks submit
    std::vector<bool> is_odd;
    std::vector<std::int64_t> first_extents;  ///< of all ranks, if they choose theirs
  };
  struct Plan {
    std::string name;
    std::vector<Call> calls;
  };

  Plan make_plan(int tensor);
  void vary(TensorSignature& signature, bool may_restart);
  TensorSignature make_odd(TensorSignature signature);
  TensorSignature signature_of(const Call& call, int rank) const;
  std::vector<std::int64_t> splits_of(const Call& call, int rank) const;
  OperationKind draw_kind();
  void expect_calls(const Plan& plan);
  void start_step(int rank);
  void submit_next(int rank, std::size_t tensor);
  void take_completion(int rank, const std::string& name);

  World& world_;
  WorkloadOptions options_;
  std::vector<Plan> plans_;
  std::unordered_map<std::string, std::size_t> places_;
  std::vector<std::vector<std::size_t>> next_call_;  ///< by rank and tensor
  std::vector<std::size_t> open_;                    ///< by rank: calls of the step to complete
};

}  // namespace scalecom::sim
