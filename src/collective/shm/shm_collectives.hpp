#pragma once

#include "collective/group.hpp"
#include "collective/shm/board_collectives.hpp"
#include "collective/tuning.hpp"
#include "transport/shm/board.hpp"

namespace scalecom {

/// The operations of the ranks of one host, natively in shared memory: no messages, no copies but
/// those in and out of the board. Reduces in rank order: the result equals the serial one.
///
/// Bytes are counted as sent when a rank writes them for others to read, once for all readers.
class ShmCollectives final : public BoardCollectives {
 public:
  /// `board` outlives this object, and is used by it alone.
  explicit ShmCollectives(Board& board);
  /// `costs` are for explanations alone.
  ShmCollectives(Board& board, const ShmTuning& tuning, const InsideCosts& costs = {})
      : BoardCollectives(board), tuning_(tuning), costs_(costs) {}

  std::string_view name() const noexcept override { return "shared memory"; }
  int rank() const noexcept override { return board_.rank(); }
  void broadcast(std::span<std::byte> data, int root, const WaitContext& context) override;
  void broadcast_parts(std::span<const std::span<std::byte>> parts, int root,
                       const WaitContext& context) override;
  void reduce_scatter(std::span<std::byte> data, std::span<const std::int64_t> bytes_per_rank,
                      DataType dtype, ReduceOp op, const WaitContext& context) override;
  void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                  std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                  const WaitContext& context) override;
  AllReduceExplanation explain_all_reduce(std::int64_t bytes) const override;
  TransportCounters counters() const noexcept override;

 private:
  void start(AllReduceBatch batch) override;
  void start(const AllGatherBatch& batch) override;
  /// Until this rank's slot of `block` may be filled again.
  void wait_for_slot(std::uint64_t block, const WaitContext& context);
  void post(std::uint64_t block, std::size_t bytes);
  void finish(std::uint64_t block);
  /// Posts `blocks` blocks, each filled by `fill(slot, i)`, which returns its bytes; the one before
  /// is emptied by `empty(block, i)` once it is posted everywhere.
  template <class Fill, class Empty>
  void exchange(std::size_t blocks, const WaitContext& context, const char* what, const Fill& fill,
                const Empty& empty);
  ShmOperation::Options options_for(std::size_t bytes) const noexcept;
  std::size_t share_of_slot() const noexcept;

  const ShmTuning tuning_;
  const InsideCosts costs_;
  TransportCounters counters_;
};

}  // namespace scalecom
