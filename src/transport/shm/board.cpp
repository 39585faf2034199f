#include "transport/shm/board.hpp"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>

#include "base/error.hpp"

namespace scalecom {
namespace {

using Atomic = std::atomic<std::uint64_t>;

// Other processes use the same memory: no lock may hide in it, and the futex word is the counter's
// low half.
static_assert(Atomic::is_always_lock_free && sizeof(Atomic) == 8);
static_assert(std::endian::native == std::endian::little);

long futex(const Atomic& word, int operation, std::uint32_t value, const timespec* limit) {
  return syscall(SYS_futex, &word, operation, value, limit, nullptr, 0);
}

std::size_t index(int value) { return static_cast<std::size_t>(value); }

}  // namespace

std::size_t Board::bytes_for(int ranks, std::size_t slot_bytes) {
  return index(ranks) * (sizeof(RankLines) + kSlots * slot_bytes);
}

Board::Board(std::span<std::byte> memory, int rank, int size, std::size_t slot_bytes)
    : lines_(reinterpret_cast<RankLines*>(memory.data())),
      slots_(memory.data() + index(size) * sizeof(RankLines)),
      rank_(rank),
      size_(size),
      slot_bytes_(slot_bytes) {
  SCALECOM_ASSERT(memory.size() == bytes_for(size, slot_bytes) && slot_bytes % kLineBytes == 0,
                  fmt::format("{} bytes, {} ranks, slots of {}", memory.size(), size, slot_bytes));
}

std::byte* Board::slot(int rank, std::uint64_t block) const noexcept {
  return slots_ + (index(rank) * kSlots + block % kSlots) * slot_bytes_;
}

Board::Counter& Board::counter(int rank, Phase phase) const noexcept {
  return lines_[rank].counters[static_cast<std::size_t>(phase)];
}

Board::InlineLine& Board::inline_line(int rank, std::uint64_t block) const noexcept {
  return lines_[rank].inlines[block % kSlots];
}

// Store, then look for sleepers; a sleeper is counted, then looks again: one of both sees the
// other.
void Board::publish(Phase phase, std::uint64_t count) {
  Counter& mine = counter(rank_, phase);
  SCALECOM_ASSERT(count >= mine.value.load(std::memory_order_relaxed),
                  "a phase that was over for more blocks");
  mine.value.store(count, std::memory_order_seq_cst);
  if (mine.sleepers.load(std::memory_order_seq_cst) > 0) {
    futex(mine.value, FUTEX_WAKE, INT_MAX, nullptr);
  }
}

bool Board::has_reached(int rank, Phase phase, std::uint64_t count) const noexcept {
  return counter(rank, phase).value.load(std::memory_order_acquire) >= count;
}

bool Board::others_have_reached(Phase phase, std::uint64_t count) noexcept {
  std::uint64_t& known = known_[static_cast<std::size_t>(phase)];
  if (known >= count) return true;
  std::uint64_t least = ~std::uint64_t{0};
  for (int rank = 0; rank < size_ && least >= count; ++rank) {
    if (rank == rank_) continue;
    least = std::min(least, counter(rank, phase).value.load(std::memory_order_acquire));
  }
  if (least < count) return false;
  known = least;
  return true;
}

void Board::post_inline(std::uint64_t block, std::span<const std::byte> data) {
  InlineLine& line = inline_line(rank_, block);
  std::memcpy(line.data.data(), data.data(), data.size());
  line.posted.store(block + 1, std::memory_order_release);
  publish(Phase::posted, block + 1);
}

bool Board::has_inline(int rank, std::uint64_t block) const noexcept {
  return inline_line(rank, block).posted.load(std::memory_order_acquire) == block + 1;
}

const std::byte* Board::inline_data(int rank, std::uint64_t block) const noexcept {
  return inline_line(rank, block).data.data();
}

void Board::wait_for_change(int rank, Phase phase, std::uint64_t count,
                            std::chrono::nanoseconds limit) const {
  Counter& theirs = counter(rank, phase);
  theirs.sleepers.fetch_add(1, std::memory_order_seq_cst);
  const std::uint64_t seen = theirs.value.load(std::memory_order_seq_cst);
  if (seen < count) {
    const timespec time{static_cast<time_t>(limit.count() / 1'000'000'000),
                        static_cast<long>(limit.count() % 1'000'000'000)};
    futex(theirs.value, FUTEX_WAIT, static_cast<std::uint32_t>(seen), &time);
  }
  theirs.sleepers.fetch_sub(1, std::memory_order_relaxed);
}

void Board::wait_for_change_of_others(Phase phase, std::uint64_t count,
                                      std::chrono::nanoseconds limit) const {
  for (int rank = 0; rank < size_; ++rank) {
    if (rank == rank_ || has_reached(rank, phase, count)) continue;
    return wait_for_change(rank, phase, count, limit);
  }
}

void Board::wait(int rank, Phase phase, std::uint64_t count, const WaitContext& context,
                 std::string_view what) const {
  WaitLoop loop(context);
  while (!has_reached(rank, phase, count)) {
    const std::chrono::nanoseconds time = loop.pause_or_sleep_time(what);
    if (time.count() > 0) wait_for_change(rank, phase, count, time);
  }
}

void Board::wait_for_others(Phase phase, std::uint64_t count, const WaitContext& context,
                            std::string_view what) {
  if (others_have_reached(phase, count)) return;
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_) wait(rank, phase, count, context, what);
  }
}

}  // namespace scalecom
