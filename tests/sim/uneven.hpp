#pragma once

#include <string>
#include <vector>

#include "tests/sim/world.hpp"

namespace scalecom::sim {

struct UnevenOptions {
  int tensors = 6;
  int epochs = 3;
  int steps_max = 8;  ///< of a rank in an epoch
  /// Else of every kind.
  bool has_all_reduces_only = false;
  /// All ranks have so many steps, and some of them one more or less.
  bool is_nearly_even = false;
  Duration gap_max = std::chrono::microseconds(100);
};

/// Epochs in which every rank has another number of steps and then joins; the next one begins when
/// all have. Some join with their last step in flight. Says what each call must lead to.
class Uneven {
 public:
  Uneven(World& world, UnevenOptions options);

  void start();
  std::size_t calls_of(int rank) const;
  /// Epochs that have ended, on all ranks together.
  int ends() const noexcept { return ends_; }

 private:
  struct Tensor {
    std::string name;
    TensorSignature signature;
  };
  struct Progress {
    std::size_t epoch = 0;
    int step = 0;
    std::size_t open = 0;  ///< tensors of the step that the rank waits for
  };

  Tensor make_tensor(int place);
  void make_epoch();
  void expect_calls();
  std::vector<std::int64_t> first_extents_of(const Tensor& tensor, int rank, int step) const;
  TensorSignature signature_at(const Tensor& tensor, std::size_t epoch) const;
  void start_step(int rank);
  void submit(int rank, const Tensor& tensor, std::size_t epoch, int step);
  void take_completion(int rank);
  void take_end(int rank, int last_rank);

  World& world_;
  UnevenOptions options_;
  std::vector<Tensor> tensors_;
  std::vector<std::vector<int>> steps_;  ///< by epoch and rank
  std::vector<Progress> progress_;
  int ends_ = 0;
};

}  // namespace scalecom::sim
