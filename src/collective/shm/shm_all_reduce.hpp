#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "collective/group.hpp"
#include "collective/shm/piece_list.hpp"
#include "transport/shm/board.hpp"

namespace scalecom {

/// A large all-reduce on a board as a pipeline of blocks, moved on step by step and never waiting.
///
/// S bytes, n ranks, blocks of B bytes, each cut into one part per owner (the first `owners`
/// ranks). For a block a rank does three things, each when it can:
///   post    pieces -> its slot; the pack of a fused batch and this copy are one
///   reduce  an owner: its part of all slots, in rank order -> its slot
///   finish  the owners' parts -> pieces
/// User memory is read once and written once; the rest stays in the cache, if B does. Per rank:
/// 2 S of copies, (n-1)/owners S of reduction, 2 S/B waits that are usually over.
///
/// With `is_open`, an owner's reduced part is not published by itself: the caller reduces it
/// further (between hosts) in place, then calls publish_part().
class ShmAllReduce {
 public:
  struct Options {
    std::size_t block_bytes = 0;  ///< at most the board's slots, whole cache lines
    int owners = 1;
    bool is_open = false;
  };
  /// Everything given outlives this object.
  ShmAllReduce(Board& board, const PieceList& pieces, const Reduction& reduction,
               const PiecesDone& done, const Options& options);

  std::uint64_t blocks() const noexcept { return blocks_; }
  std::uint64_t posted() const noexcept { return posted_; }
  bool is_done() const noexcept { return finished_ == blocks_; }

  /// Does what can be done now; false when that is nothing.
  bool advance();

  /// Sleeps until the rank that the oldest block waits for may have moved on.
  void wait_for_change(std::chrono::nanoseconds limit) const;

  /// Open: this owner's part of the blocks that are reduced here and not published, the oldest is
  /// 0. Memory in the slot, which the caller changes.
  bool has_open_part(std::size_t index) const noexcept { return published_ + index < reduced_; }
  std::span<std::byte> open_part(std::size_t index) const;
  /// The oldest.
  void publish_part();

 private:
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  Range block_range(std::uint64_t block) const noexcept;
  Range part_range(std::uint64_t block, int owner) const noexcept;
  bool is_owner() const noexcept { return board_.rank() < options_.owners; }

  bool can_post() const;
  bool can_reduce() const;
  bool can_finish() const;
  void post();
  void reduce();
  void finish();
  /// The owner whose part of the oldest block is missing, or -1.
  int late_owner() const;

  Board& board_;
  const PieceList& pieces_;
  const Reduction& reduction_;
  const PiecesDone& done_;
  const Options options_;
  const std::uint64_t blocks_;
  const std::uint64_t first_block_;
  std::uint64_t posted_ = 0;
  std::uint64_t reduced_ = 0;
  std::uint64_t published_ = 0;
  std::uint64_t finished_ = 0;
  std::size_t pieces_done_ = 0;
};

/// Partial results of this size stay in the nearest cache from one rank's values to the next's.
inline constexpr std::size_t kReduceTileBytes = 16 << 10;

/// result = the ranks' data at `offset` of their slots of `block`, reduced in rank order. `result`
/// may be this rank's own place there.
void reduce_slots(const Board& board, std::uint64_t block, std::size_t offset,
                  std::span<std::byte> result, const Reduction& reduction);

}  // namespace scalecom
