#pragma once

#include <memory>
#include <string>

#include "collective/collectives.hpp"
#include "collective/group.hpp"
#include "collective/shm/shm_operation.hpp"
#include "collective/tuning.hpp"
#include "transport/shm/board.hpp"

namespace scalecom {

/// The operations of the ranks of one host, natively in shared memory: no messages, no copies but
/// those in and out of the board. Reduces in rank order: the result equals the serial one.
///
/// Bytes are counted as sent when a rank writes them for others to read, once for all readers.
class ShmCollectives final : public Collectives {
 public:
  /// `board` outlives this object, and is used by it alone.
  explicit ShmCollectives(Board& board);
  /// `costs` are for explanations alone.
  ShmCollectives(Board& board, const ShmTuning& tuning, const InsideCosts& costs = {})
      : board_(board), tuning_(tuning), costs_(costs), pipeline_(board) {}

  std::string_view name() const noexcept override { return "shared memory"; }
  int rank() const noexcept override { return board_.rank(); }
  int host_size() const noexcept override { return board_.size(); }
  void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                  const WaitContext& context) override;
  bool advance(const WaitContext& context) override;
  std::size_t under_way() const noexcept override { return pipeline_.under_way(); }
  bool must_poll() const noexcept override { return pipeline_.is_held(); }
  bool goes_in_steps() const noexcept override { return true; }
  void hold() override { pipeline_.hold(); }
  void release() override { pipeline_.release(); }
  void wait_for_change(std::chrono::nanoseconds limit) override {
    pipeline_.wait_for_change(limit);
  }
  void broadcast(std::span<std::byte> data, int root, const WaitContext& context) override;
  void broadcast_parts(std::span<const std::span<std::byte>> parts, int root,
                       const WaitContext& context) override;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  std::span<const std::int64_t> bytes_per_rank,
                  const WaitContext& context) override;
  void reduce_scatter(std::span<std::byte> data, std::span<const std::int64_t> bytes_per_rank,
                      DataType dtype, ReduceOp op, const WaitContext& context) override;
  void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                  std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                  const WaitContext& context) override;
  AllReduceExplanation explain_all_reduce(std::int64_t bytes) const override;
  TransportCounters counters() const noexcept override;

 private:
  void enqueue(Operation operation) override;
  void discard_under_way(std::size_t index) override { pipeline_.discard(index); }
  void start(AllReduceBatch batch);
  void start(const AllGatherBatch& batch);
  /// Until this rank's slot of `block` may be filled again.
  void wait_for_slot(std::uint64_t block, const WaitContext& context);
  void post(std::uint64_t block, std::size_t bytes);
  void finish(std::uint64_t block);
  /// Posts `blocks` blocks, each filled by `fill(slot, i)`, which returns its bytes; the one before
  /// is emptied by `empty(block, i)` once it is posted everywhere.
  template <class Fill, class Empty>
  void exchange(std::size_t blocks, const WaitContext& context, const char* what, const Fill& fill,
                const Empty& empty);
  void count(std::size_t bytes);
  ShmOperation::Options options_for(std::size_t bytes) const noexcept;
  std::size_t share_of_slot() const noexcept;

  Board& board_;
  const ShmTuning tuning_;
  const InsideCosts costs_;
  ShmPipeline pipeline_;
  TransportCounters counters_;
};

}  // namespace scalecom
