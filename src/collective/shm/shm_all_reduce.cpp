#include "collective/shm/shm_all_reduce.hpp"

#include <array>
#include <cstring>

#include "base/error.hpp"

namespace scalecom {

using Phase = Board::Phase;

void reduce_slots(const Board& board, std::uint64_t block, std::size_t offset,
                  std::span<std::byte> result, const Reduction& reduction) {
  // Not in `result` until the last rank: that may be one of the operands to come.
  alignas(64) std::array<std::byte, kReduceTileBytes> partial;
  for (std::size_t begin = 0; begin < result.size(); begin += kReduceTileBytes) {
    const std::size_t bytes = std::min(kReduceTileBytes, result.size() - begin);
    const auto operand = [&](int rank) { return board.slot(rank, block) + offset + begin; };
    const std::byte* left = operand(0);
    for (int rank = 1; rank < board.size(); ++rank) {
      const bool is_last = rank + 1 == board.size();
      std::byte* place = is_last ? result.data() + begin : partial.data();
      reduction(place, left, operand(rank), bytes);
      left = place;
    }
    if (board.size() == 1 && left != result.data() + begin) {
      std::memcpy(result.data() + begin, left, bytes);
    }
  }
}

ShmAllReduce::ShmAllReduce(Board& board, const PieceList& pieces, const Reduction& reduction,
                           const PiecesDone& done, const Options& options)
    : board_(board),
      pieces_(pieces),
      reduction_(reduction),
      done_(done),
      options_(options),
      blocks_((pieces.bytes() + options.block_bytes - 1) / options.block_bytes),
      first_block_(board.take_blocks(blocks_)) {}

ShmAllReduce::Range ShmAllReduce::block_range(std::uint64_t block) const noexcept {
  const std::size_t begin = block * options_.block_bytes;
  return {begin, std::min(begin + options_.block_bytes, pieces_.bytes())};
}

// Within the block. Parts begin at cache lines, so that no line has two writers.
ShmAllReduce::Range ShmAllReduce::part_range(std::uint64_t block, int owner) const noexcept {
  const Range range = block_range(block);
  const std::size_t bytes = range.end - range.begin;
  const auto owners = static_cast<std::size_t>(options_.owners);
  const std::size_t lines = (bytes + Board::kLineBytes - 1) / Board::kLineBytes;
  const std::size_t part = (lines + owners - 1) / owners * Board::kLineBytes;
  const std::size_t begin = std::min(bytes, part * static_cast<std::size_t>(owner));
  return {begin, std::min(bytes, begin + part)};
}

bool ShmAllReduce::can_post() const {
  if (posted_ == blocks_) return false;
  const std::uint64_t block = first_block_ + posted_;
  return block < Board::kSlots ||
         (posted_ - finished_ < Board::kSlots &&
          board_.others_have_reached(Phase::finished, block - Board::kSlots + 1));
}

void ShmAllReduce::post() {
  const Range range = block_range(posted_);
  const std::uint64_t block = first_block_ + posted_;
  pieces_.load(board_.slot(board_.rank(), block), range.begin, range.end);
  ++posted_;
  board_.publish(Phase::posted, block + 1);
}

bool ShmAllReduce::can_reduce() const {
  return reduced_ < posted_ &&
         (!is_owner() || board_.others_have_reached(Phase::posted, first_block_ + reduced_ + 1));
}

void ShmAllReduce::reduce() {
  const std::uint64_t block = first_block_ + reduced_;
  if (is_owner()) {
    const Range part = part_range(reduced_, board_.rank());
    std::byte* place = board_.slot(board_.rank(), block) + part.begin;
    reduce_slots(board_, block, part.begin, {place, part.end - part.begin}, reduction_);
  }
  ++reduced_;
  if (!options_.is_open || !is_owner()) publish_part();
}

std::span<std::byte> ShmAllReduce::open_part(std::size_t index) const {
  SCALECOM_ASSERT(has_open_part(index), std::to_string(index) + " of the open parts");
  const std::uint64_t block = published_ + index;
  const Range part = part_range(block, board_.rank());
  std::byte* place = board_.slot(board_.rank(), first_block_ + block) + part.begin;
  return {place, part.end - part.begin};
}

void ShmAllReduce::publish_part() {
  ++published_;
  if (is_owner()) board_.publish(Phase::reduced, first_block_ + published_);
}

int ShmAllReduce::late_owner() const {
  const std::uint64_t count = first_block_ + finished_ + 1;
  for (int owner = 0; owner < options_.owners; ++owner) {
    if (owner != board_.rank() && !board_.has_reached(owner, Phase::reduced, count)) return owner;
  }
  return -1;
}

bool ShmAllReduce::can_finish() const { return finished_ < published_ && late_owner() < 0; }

void ShmAllReduce::finish() {
  const std::uint64_t block = first_block_ + finished_;
  const std::size_t begin = block_range(finished_).begin;
  for (int owner = 0; owner < options_.owners; ++owner) {
    const Range part = part_range(finished_, owner);
    pieces_.store(board_.slot(owner, block) + part.begin, begin + part.begin, begin + part.end);
  }
  ++finished_;
  board_.publish(Phase::finished, block + 1);
  const std::size_t count = pieces_.pieces_before(block_range(finished_ - 1).end);
  if (count > pieces_done_) done_(pieces_done_ = count);
}

// One of each kind in turn, so that a block's data is still in the cache when it is its turn again.
bool ShmAllReduce::advance() {
  bool has_moved = false;
  if (can_post()) {
    post();
    has_moved = true;
  }
  if (can_reduce()) {
    reduce();
    has_moved = true;
  }
  if (can_finish()) {
    finish();
    has_moved = true;
  }
  return has_moved;
}

// The oldest block is one that no other rank waits for this rank with, so sleeping for it is safe.
void ShmAllReduce::wait_for_change(std::chrono::nanoseconds limit) const {
  const std::uint64_t count = first_block_ + finished_ + 1;
  if (posted_ == finished_) {
    board_.wait_for_change_of_others(Phase::finished, count - Board::kSlots, limit);
  } else if (reduced_ == finished_) {
    board_.wait_for_change_of_others(Phase::posted, count, limit);
  } else if (const int owner = late_owner(); owner >= 0) {
    board_.wait_for_change(owner, Phase::reduced, count, limit);
  }
}

}  // namespace scalecom
