#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "collective/collectives.hpp"
#include "collective/shm/shm_operation.hpp"
#include "transport/shm/board.hpp"

namespace scalecom {

/// What implementations on a board share: all-reduces and all-gathers go through a pipeline
/// (shm_operation.hpp), in steps. How one is cut into blocks is for the implementation to say.
class BoardCollectives : public Collectives {
 public:
  int host_size() const noexcept override { return board_.size(); }
  void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                  const WaitContext& context) override;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  std::span<const std::int64_t> bytes_per_rank,
                  const WaitContext& context) override;
  bool advance(const WaitContext&) override { return pipeline_.advance(); }
  std::size_t under_way() const noexcept override { return pipeline_.under_way(); }
  bool goes_in_steps() const noexcept override { return true; }
  void hold() override { pipeline_.hold(); }
  void release() override { pipeline_.release(); }
  bool must_poll() const noexcept override { return pipeline_.is_held(); }
  void wait_for_change(std::chrono::nanoseconds limit) override {
    pipeline_.wait_for_change(limit);
  }

 protected:
  /// `board` outlives this object, and is used by it alone.
  explicit BoardCollectives(Board& board) : board_(board), pipeline_(board) {}

  Board& board_;
  ShmPipeline pipeline_;

 private:
  void enqueue(Operation operation) override;
  void discard_under_way(std::size_t index) override { pipeline_.discard(index); }
  /// Each into the pipeline.
  virtual void start(AllReduceBatch batch) = 0;
  virtual void start(const AllGatherBatch& batch) = 0;
};

}  // namespace scalecom
