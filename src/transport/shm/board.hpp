#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "base/wait.hpp"

namespace scalecom {

/// What the ranks of one host have in common: in one piece of shared memory each rank has counters
/// that only it writes and slots that it fills.
///
/// Work is cut into *blocks*, numbered from 0 on through the life of the board, the same on every
/// rank. Block b of a rank lives in slot b mod kSlots. The counters of a rank say for how many
/// blocks a *phase* is over:
///   posted    its data is in its slot
///   reduced   the result of its part is in its slot
///   finished  it reads no slot of this block any more
/// Hence a slot is filled again once all ranks have finished the block kSlots before.
///
/// An object is one rank's view, confined to one thread; the ranks are processes (or threads, in
/// tests) that map the same memory. A reader that is told by a counter sees what was written
/// before.
class Board {
 public:
  static constexpr std::size_t kSlots = 4;
  static constexpr std::size_t kLineBytes = 64;
  /// What a board's memory is made of.
  struct alignas(kLineBytes) Line {
    std::array<std::byte, kLineBytes> bytes{};
  };
  /// What fits into one cache line beside its counter.
  static constexpr std::size_t kInlineBytes = kLineBytes - sizeof(std::uint64_t);

  enum class Phase { posted, reduced, finished };

  /// Bytes of memory for `ranks` with slots of `slot_bytes` (a multiple of kLineBytes).
  static std::size_t bytes_for(int ranks, std::size_t slot_bytes);

  /// `memory` has bytes_for() zero bytes at first, aligned to kLineBytes, and outlives the board.
  Board(std::span<std::byte> memory, int rank, int size, std::size_t slot_bytes);

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  std::size_t slot_bytes() const noexcept { return slot_bytes_; }

  /// The first of `count` blocks for the next operation.
  std::uint64_t take_blocks(std::uint64_t count) noexcept {
    return std::exchange(next_block_, next_block_ + count);
  }

  std::byte* slot(int rank, std::uint64_t block) const noexcept;

  /// Says that `phase` is over for all blocks before `count`; wakes who sleeps for it.
  void publish(Phase phase, std::uint64_t count);
  bool has_reached(int rank, Phase phase, std::uint64_t count) const noexcept;
  /// True when all ranks have, this one left out.
  bool others_have_reached(Phase phase, std::uint64_t count) noexcept;

  /// Data of up to kInlineBytes, carried by the cache line of its own counter.
  void post_inline(std::uint64_t block, std::span<const std::byte> data);
  bool has_inline(int rank, std::uint64_t block) const noexcept;
  const std::byte* inline_data(int rank, std::uint64_t block) const noexcept;

  /// Sleeps until the rank publishes, at most for `limit`; may wake early.
  void wait_for_change(int rank, Phase phase, std::uint64_t count,
                       std::chrono::nanoseconds limit) const;

  /// The same for the first other rank that has not reached the count.
  void wait_for_change_of_others(Phase phase, std::uint64_t count,
                                 std::chrono::nanoseconds limit) const;

  /// Waits for one rank, or for all others, with the discipline of WaitLoop.
  void wait(int rank, Phase phase, std::uint64_t count, const WaitContext& context,
            std::string_view what) const;
  void wait_for_others(Phase phase, std::uint64_t count, const WaitContext& context,
                       std::string_view what);

 private:
  struct alignas(kLineBytes) Counter {
    std::atomic<std::uint64_t> value;
    std::atomic<std::uint32_t> sleepers;
  };
  struct alignas(kLineBytes) InlineLine {
    std::atomic<std::uint64_t> posted;
    std::array<std::byte, kInlineBytes> data;
  };
  struct RankLines {
    std::array<Counter, 3> counters;
    std::array<InlineLine, kSlots> inlines;
  };

  Counter& counter(int rank, Phase phase) const noexcept;
  InlineLine& inline_line(int rank, std::uint64_t block) const noexcept;

  RankLines* const lines_;
  std::byte* const slots_;
  const int rank_;
  const int size_;
  const std::size_t slot_bytes_;
  std::uint64_t next_block_ = 0;
  /// What others_have_reached() has seen, by phase.
  std::array<std::uint64_t, 3> known_{};
};

}  // namespace scalecom
