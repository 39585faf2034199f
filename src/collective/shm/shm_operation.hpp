#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "collective/group.hpp"
#include "collective/shm/piece_list.hpp"
#include "transport/shm/board.hpp"

namespace scalecom {

/// What an all-gather's vector is made of, as ranges of it.
struct ShmGather {
  std::vector<ByteRange> sources;  ///< what each rank of the board brings
  /// Open: what the host of each counterpart brings, in their order.
  std::vector<ByteRange> hosts = {};
};

/// One all-reduce or all-gather on a board, moved on step by step and never waiting.
///
/// S bytes, n ranks, in blocks of B bytes. For a block a rank does three things, each when it can:
///   post    pieces -> its slot, but for the part that it owns; the pack of a fused batch and this
///           copy are one
///   reduce  an owner (one of the first ranks): its part of its pieces and of the others' slots, in
///           rank order -> its slot
///   finish  the owners' parts -> pieces
/// User memory is read once and written once; the rest stays in the cache, if B does. An owner:
/// (2 - 1/owners) S of copies, (n-1)/owners S of reduction, 2 S/B waits that are usually over.
///
/// Small vectors are one block without owners: every rank reduces all n slots by itself when it
/// finishes, which reads n S and saves a step. Up to Board::kInlineBytes the data travels in the
/// cache line that says it is there.
///
/// An all-gather is the same where every byte has one rank that brings it: only that one posts it,
/// and an owner copies where it would reduce. Without owners it may have many blocks.
class ShmOperation {
 public:
  struct Options {
    std::size_t block_bytes = 0;  ///< at most the board's slots, whole cache lines
    /// 0: every rank reduces, or copies, by itself. S is at most one block to be reduced.
    int owners = 0;
    /// An owner's reduced part is not handed on by itself: the caller takes it by open_next_part(),
    /// reduces it further (between hosts) in place, then calls publish_part().
    bool is_open = false;
  };
  /// The board outlives this object.
  ShmOperation(Board& board, AllReduceBatch batch, const Options& options);
  /// All-gather of the bytes in `pieces`, which are output and, where this rank brings them, input.
  ShmOperation(Board& board, std::vector<Piece> pieces, ShmGather gather, const Options& options);

  std::uint64_t blocks() const noexcept { return blocks_; }
  const Reduction& reduction() const noexcept { return reduction_; }
  const ShmGather& gather() const noexcept { return gather_; }
  bool is_done() const noexcept {
    return finished_ == blocks_ && (is_discarded_ || pieces_done_ == pieces_.size());
  }

  /// Does what can be done now; false when that is nothing. The last one with a block that was
  /// started `before` on the same board (null: none is under way) is ahead in every phase. Without
  /// `may_publish` an earlier one still has a part on its way to other hosts, which the ranks of
  /// this one must hear of first. Results reach the pieces only with `may_finish`.
  bool advance(const ShmOperation* before, bool may_publish, bool may_finish);
  bool is_published() const noexcept { return published_ == blocks_; }

  /// See Collectives::discard().
  void discard();
  bool is_discarded() const noexcept { return is_discarded_; }

  /// Blocks and bytes given to other ranks so far.
  std::uint64_t posted_blocks() const noexcept { return posted_; }
  std::size_t posted_bytes() const noexcept;

  /// Sleeps until the rank that the oldest block waits for may have moved on.
  void wait_for_change(std::chrono::nanoseconds limit) const;

  /// Open: whether this owner has a reduced part that the caller has not taken yet.
  bool has_part_to_open() const noexcept { return is_open_owner() && opened_ < reduced_; }
  /// That part of the next block: memory in the slot, which the caller changes, and what range of
  /// the vector it is.
  std::pair<std::span<std::byte>, ByteRange> open_next_part();
  /// The oldest open part is ready for the ranks of this host.
  void publish_part();

 private:
  ShmOperation(Board& board, PieceList pieces, Reduction reduction, ShmGather gather,
               PiecesDone done, PhaseSink* phases, const Options& options);

  void enter(const char* phase) const {
    if (phases_ != nullptr) phases_->enter(phase);
  }
  ByteRange block_range(std::uint64_t block) const noexcept;
  /// Within the block.
  ByteRange part_range(std::uint64_t block, int owner) const noexcept;
  ByteRange own_part_range(std::uint64_t block) const noexcept {
    return is_owner() ? part_range(block, board_.rank()) : ByteRange{};
  }
  bool is_gather() const noexcept { return !gather_.sources.empty(); }
  const ByteRange& source(int rank) const noexcept {
    return gather_.sources[static_cast<std::size_t>(rank)];
  }
  bool is_owner() const noexcept { return board_.rank() < options_.owners; }
  bool is_open_owner() const noexcept { return options_.is_open && is_owner(); }

  void load_for_others(std::byte* slot, const ByteRange& block) const;
  bool can_post() const;
  bool can_reduce() const;
  bool can_finish() const;
  void post();
  void reduce();
  void finish();
  void reduce_inline();
  void reduce_flat();
  /// The part of the owner in a block, from the slots.
  void reduce_part(std::uint64_t index);
  void gather_part(std::uint64_t index);
  void unpack();
  void unpack_slots();
  void tell(std::size_t count);
  /// The owner whose part of the oldest block is missing, or -1.
  int late_owner() const;
  /// The rank whose inline data of the only block is missing, or -1.
  int late_inline_rank() const;

  Board& board_;
  const PieceList pieces_;
  const Reduction reduction_;
  const ShmGather gather_;
  const PiecesDone done_;
  PhaseSink* const phases_;
  const Options options_;
  const bool is_inline_;
  const std::uint64_t blocks_;
  const std::uint64_t first_block_;
  std::uint64_t posted_ = 0;
  std::uint64_t reduced_ = 0;
  std::uint64_t opened_ = 0;
  std::uint64_t published_ = 0;
  std::uint64_t finished_ = 0;
  std::size_t pieces_done_ = 0;
  bool is_discarded_ = false;
};

/// The operations under way on one board, in the order of their start.
class ShmPipeline {
 public:
  explicit ShmPipeline(Board& board) : board_(board) {}

  /// As ShmOperation's constructors, behind the board.
  template <class... Arguments>
  void start(Arguments&&... arguments) {
    under_way_.emplace_back(board_, std::forward<Arguments>(arguments)...);
  }
  /// False when nothing could be done.
  bool advance();
  std::size_t under_way() const noexcept { return under_way_.size(); }
  bool is_held() const noexcept { return is_held_; }
  void hold() noexcept { is_held_ = true; }
  void release() noexcept { is_held_ = false; }
  void discard(std::size_t index) { under_way_[index].discard(); }
  /// For the oldest.
  void wait_for_change(std::chrono::nanoseconds limit) const {
    if (!under_way_.empty()) under_way_.front().wait_for_change(limit);
  }
  std::deque<ShmOperation>& operations() noexcept { return under_way_; }
  /// Posted so far, by those that are done and those under way.
  TransportCounters counters() const noexcept;

 private:
  Board& board_;
  std::deque<ShmOperation> under_way_;
  bool is_held_ = false;
  TransportCounters counters_;
};

/// Partial results of this size stay in the nearest cache from one rank's values to the next's.
inline constexpr std::size_t kReduceTileBytes = 16 << 10;

/// result = the ranks' data at `offset` of their slots of `block`, reduced in rank order. `result`
/// may be this rank's own place there.
void reduce_slots(const Board& board, std::uint64_t block, std::size_t offset,
                  std::span<std::byte> result, const Reduction& reduction);

}  // namespace scalecom
