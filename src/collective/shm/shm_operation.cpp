#include "collective/shm/shm_operation.hpp"

#include <array>
#include <cstring>
#include <utility>

#include "base/error.hpp"

namespace scalecom {

using Phase = Board::Phase;

namespace {

// result = operand(rank, begin, bytes) of the ranks, reduced in rank order, tile by tile.
template <class Operand>
void reduce_ranks(int size, std::span<std::byte> result, const Reduction& reduction,
                  Operand operand) {
  // Not in `result` until the last rank: that may be one of the operands to come.
  alignas(64) std::array<std::byte, kReduceTileBytes> partial;
  for (std::size_t begin = 0; begin < result.size(); begin += kReduceTileBytes) {
    const std::size_t bytes = std::min(kReduceTileBytes, result.size() - begin);
    const std::byte* left = operand(0, begin, bytes);
    for (int rank = 1; rank < size; ++rank) {
      std::byte* place = rank + 1 == size ? result.data() + begin : partial.data();
      reduction(place, left, operand(rank, begin, bytes), bytes);
      left = place;
    }
    if (size == 1 && left != result.data() + begin) {
      std::memcpy(result.data() + begin, left, bytes);
    }
  }
}

}  // namespace

void reduce_slots(const Board& board, std::uint64_t block, std::size_t offset,
                  std::span<std::byte> result, const Reduction& reduction) {
  reduce_ranks(board.size(), result, reduction, [&](int rank, std::size_t begin, std::size_t) {
    return board.slot(rank, block) + offset + begin;
  });
}

ShmOperation::ShmOperation(Board& board, PieceList pieces, Reduction reduction, ShmGather gather,
                           PiecesDone done, PhaseSink* phases, const Options& options)
    : board_(board),
      pieces_(std::move(pieces)),
      reduction_(reduction),
      gather_(std::move(gather)),
      done_(std::move(done)),
      phases_(phases),
      options_(options),
      is_inline_(options.owners == 0 && !is_gather() && pieces_.bytes() <= Board::kInlineBytes),
      blocks_((pieces_.bytes() + options.block_bytes - 1) / options.block_bytes),
      first_block_(board.take_blocks(blocks_)) {
  SCALECOM_ASSERT(options.owners > 0 || blocks_ <= 1 || is_gather(),
                  std::to_string(pieces_.bytes()) + " bytes without an owner");
}

ShmOperation::ShmOperation(Board& board, AllReduceBatch batch, const Options& options)
    : ShmOperation(board, PieceList(std::move(batch.pieces), batch.dtype), {batch.dtype, batch.op},
                   {}, std::move(batch.done), batch.phases, options) {}

ShmOperation::ShmOperation(Board& board, std::vector<Piece> pieces, ShmGather gather,
                           const Options& options)
    : ShmOperation(
          board, PieceList(std::move(pieces), DataType::uint8), {}, std::move(gather),
          [](std::size_t) {}, nullptr, options) {}

ByteRange ShmOperation::block_range(std::uint64_t block) const noexcept {
  const std::size_t begin = block * options_.block_bytes;
  return {begin, std::min(begin + options_.block_bytes, pieces_.bytes())};
}

// Parts begin at cache lines, so that no line has two writers.
ByteRange ShmOperation::part_range(std::uint64_t block, int owner) const noexcept {
  const std::size_t bytes = block_range(block).size();
  const auto owners = static_cast<std::size_t>(options_.owners);
  const std::size_t lines = (bytes + Board::kLineBytes - 1) / Board::kLineBytes;
  const std::size_t part = (lines + owners - 1) / owners * Board::kLineBytes;
  const std::size_t begin = std::min(bytes, part * static_cast<std::size_t>(owner));
  return {begin, std::min(bytes, begin + part)};
}

bool ShmOperation::can_post() const {
  if (posted_ == blocks_) return false;
  const std::uint64_t block = first_block_ + posted_;
  if (block < Board::kSlots) return true;
  const std::uint64_t free = block - Board::kSlots + 1;
  return board_.has_reached(board_.rank(), Phase::finished, free) &&
         board_.others_have_reached(Phase::finished, free);
}

// But for the part that this rank will reduce or copy itself, and what it does not bring.
void ShmOperation::load_for_others(std::byte* slot, const ByteRange& block) const {
  const ByteRange own = own_part_range(posted_);
  for (ByteRange range : {ByteRange{block.begin, block.begin + own.begin},
                          ByteRange{block.begin + own.end, block.end}}) {
    if (is_gather()) range = range.overlap(source(board_.rank()));
    pieces_.load(slot + (range.begin - block.begin), range.begin, range.end);
  }
}

void ShmOperation::post() {
  if (posted_ == 0) enter(phases::kPack);
  const ByteRange range = block_range(posted_);
  const std::uint64_t block = first_block_ + posted_;
  if (is_inline_) {
    alignas(8) std::array<std::byte, Board::kInlineBytes> data{};
    if (!is_discarded_) pieces_.load(data.data(), range.begin, range.end);
    board_.post_inline(block, std::span(data).first(range.end));
  } else {
    if (!is_discarded_) load_for_others(board_.slot(board_.rank(), block), range);
    board_.publish(Phase::posted, block + 1);
  }
  ++posted_;
  enter(phases::kAllReduce);
}

bool ShmOperation::can_reduce() const {
  return reduced_ < posted_ &&
         (!is_owner() || board_.others_have_reached(Phase::posted, first_block_ + reduced_ + 1));
}

void ShmOperation::reduce_part(std::uint64_t index) {
  const std::uint64_t block = first_block_ + index;
  const ByteRange part = part_range(index, board_.rank());
  const std::size_t in_pieces = block_range(index).begin + part.begin;
  alignas(64) std::array<std::byte, kReduceTileBytes> own;
  const auto operand = [&](int rank, std::size_t begin, std::size_t bytes) -> const std::byte* {
    if (rank == board_.rank() && !is_discarded_) {
      return pieces_.read(own.data(), in_pieces + begin, in_pieces + begin + bytes);
    }
    return board_.slot(rank, block) + part.begin + begin;
  };
  std::byte* place = board_.slot(board_.rank(), block) + part.begin;
  reduce_ranks(board_.size(), {place, part.size()}, reduction_, operand);
}

void ShmOperation::gather_part(std::uint64_t index) {
  const std::uint64_t block = first_block_ + index;
  const std::size_t begin = block_range(index).begin;
  const ByteRange part = part_range(index, board_.rank());
  std::byte* const own = board_.slot(board_.rank(), block);
  for (int rank = 0; rank < board_.size(); ++rank) {
    const ByteRange range = ByteRange{begin + part.begin, begin + part.end}.overlap(source(rank));
    const std::size_t place = range.begin - begin;
    if (rank != board_.rank()) {
      std::copy_n(board_.slot(rank, block) + place, range.size(), own + place);
    } else if (!is_discarded_) {
      pieces_.load(own + place, range.begin, range.end);
    }
  }
}

void ShmOperation::reduce() {
  if (is_owner()) is_gather() ? gather_part(reduced_) : reduce_part(reduced_);
  ++reduced_;
  if (!is_open_owner()) publish_part();
}

std::pair<std::span<std::byte>, ByteRange> ShmOperation::open_next_part() {
  SCALECOM_ASSERT(has_part_to_open(), std::to_string(opened_) + " parts are open");
  const ByteRange part = part_range(opened_, board_.rank());
  const std::size_t begin = block_range(opened_).begin;
  std::byte* place = board_.slot(board_.rank(), first_block_ + opened_) + part.begin;
  ++opened_;
  return {{place, part.size()}, {begin + part.begin, begin + part.end}};
}

void ShmOperation::publish_part() {
  ++published_;
  if (is_owner()) board_.publish(Phase::reduced, first_block_ + published_);
}

int ShmOperation::late_owner() const {
  const std::uint64_t count = first_block_ + finished_ + 1;
  for (int owner = 0; owner < options_.owners; ++owner) {
    if (owner != board_.rank() && !board_.has_reached(owner, Phase::reduced, count)) return owner;
  }
  return -1;
}

int ShmOperation::late_inline_rank() const {
  for (int rank = 0; rank < board_.size(); ++rank) {
    if (!board_.has_inline(rank, first_block_)) return rank;
  }
  return -1;
}

bool ShmOperation::can_finish() const {
  if (finished_ == published_) return false;
  if (is_inline_) return late_inline_rank() < 0;
  if (options_.owners > 0) return late_owner() < 0;
  return board_.others_have_reached(Phase::posted, first_block_ + finished_ + 1);
}

// Without owners reducing and copying are one.
void ShmOperation::finish() {
  if (options_.owners > 0 && finished_ + 1 == blocks_) enter(phases::kUnpack);
  if (!is_discarded_) {
    if (is_inline_) {
      reduce_inline();
    } else if (options_.owners > 0) {
      unpack();
    } else {
      is_gather() ? unpack_slots() : reduce_flat();
    }
  }
  ++finished_;
  board_.publish(Phase::finished, first_block_ + finished_);
  tell(pieces_.pieces_before(block_range(finished_ - 1).end));
}

void ShmOperation::reduce_inline() {
  const std::size_t bytes = pieces_.bytes();
  alignas(8) std::array<std::byte, Board::kInlineBytes> values;
  std::memcpy(values.data(), board_.inline_data(0, first_block_), bytes);
  for (int rank = 1; rank < board_.size(); ++rank) {
    reduction_(values.data(), values.data(), board_.inline_data(rank, first_block_), bytes);
  }
  pieces_.store(values.data(), 0, bytes);
}

void ShmOperation::reduce_flat() {
  const std::size_t bytes = pieces_.bytes();
  alignas(64) std::array<std::byte, kReduceTileBytes> tile;
  for (std::size_t begin = 0; begin < bytes; begin += tile.size()) {
    const std::size_t end = std::min(bytes, begin + tile.size());
    reduce_slots(board_, first_block_, begin, std::span(tile).first(end - begin), reduction_);
    pieces_.store(tile.data(), begin, end);
  }
}

void ShmOperation::unpack() {
  const std::uint64_t block = first_block_ + finished_;
  const std::size_t begin = block_range(finished_).begin;
  for (int owner = 0; owner < options_.owners; ++owner) {
    const ByteRange part = part_range(finished_, owner);
    pieces_.store(board_.slot(owner, block) + part.begin, begin + part.begin, begin + part.end);
  }
}

void ShmOperation::unpack_slots() {
  const ByteRange block = block_range(finished_);
  for (int rank = 0; rank < board_.size(); ++rank) {
    if (rank == board_.rank()) continue;
    const ByteRange range = block.overlap(source(rank));
    pieces_.store(board_.slot(rank, first_block_ + finished_) + (range.begin - block.begin),
                  range.begin, range.end);
  }
}

void ShmOperation::tell(std::size_t count) {
  if (is_discarded_ || count == pieces_done_) return;
  pieces_done_ = count;
  done_(count);
}

// One of each kind in turn, so that a block's data is still in the cache when it is its turn again.
bool ShmOperation::advance(const ShmOperation* before, bool may_publish, bool may_finish) {
  bool has_moved = false;
  if ((before == nullptr || before->posted_ == before->blocks_) && can_post()) {
    post();
    has_moved = true;
  }
  const bool may_reduce = may_publish || options_.is_open || !is_owner();
  if (may_reduce && (before == nullptr || before->reduced_ == before->blocks_) && can_reduce()) {
    reduce();
    has_moved = true;
  }
  if (!may_finish) return has_moved;
  if (can_finish()) {
    finish();
    has_moved = true;
  }
  if (blocks_ == 0 && !is_done()) {
    tell(pieces_.size());
    has_moved = true;
  }
  return has_moved;
}

void ShmOperation::discard() {
  SCALECOM_ASSERT(finished_ == 0 && pieces_done_ == 0,
                  std::to_string(finished_) + " blocks have reached the pieces");
  is_discarded_ = true;
}

std::size_t ShmOperation::posted_bytes() const noexcept {
  const ByteRange posted{0, posted_ == 0 ? 0 : block_range(posted_ - 1).end};
  return (is_gather() ? posted.overlap(source(board_.rank())) : posted).size();
}

// The oldest block is one that no other rank waits for this rank with, so sleeping for it is safe.
void ShmOperation::wait_for_change(std::chrono::nanoseconds limit) const {
  const std::uint64_t count = first_block_ + finished_ + 1;
  if (posted_ == finished_) {
    if (count > Board::kSlots) {
      board_.wait_for_change_of_others(Phase::finished, count - Board::kSlots, limit);
    }
  } else if (is_inline_) {
    const int rank = late_inline_rank();
    if (rank >= 0) board_.wait_for_change(rank, Phase::posted, count, limit);
  } else if (reduced_ == finished_ || options_.owners == 0) {
    board_.wait_for_change_of_others(Phase::posted, count, limit);
  } else if (const int owner = late_owner(); owner >= 0) {
    board_.wait_for_change(owner, Phase::reduced, count, limit);
  }
}

bool ShmPipeline::advance() {
  bool has_moved = false;
  const ShmOperation* before = nullptr;
  bool are_earlier_done = true;
  bool are_earlier_published = true;
  for (ShmOperation& operation : under_way_) {
    const bool may_finish = are_earlier_done && (!is_held_ || operation.is_discarded());
    has_moved = operation.advance(before, are_earlier_published, may_finish) || has_moved;
    are_earlier_done = are_earlier_done && operation.is_done();
    are_earlier_published = are_earlier_published && operation.is_published();
    // One without a block has nothing that could be ahead of the next.
    if (operation.blocks() > 0) before = &operation;
  }
  while (!under_way_.empty() && under_way_.front().is_done()) {
    counters_.bytes_sent += static_cast<std::int64_t>(under_way_.front().posted_bytes());
    counters_.messages_sent += static_cast<std::int64_t>(under_way_.front().blocks());
    under_way_.pop_front();
  }
  return has_moved;
}

TransportCounters ShmPipeline::counters() const noexcept {
  if (board_.size() == 1) return {};  // Nobody reads it.
  TransportCounters all = counters_;
  for (const ShmOperation& operation : under_way_) {
    all.bytes_sent += static_cast<std::int64_t>(operation.posted_bytes());
    all.messages_sent += static_cast<std::int64_t>(operation.posted_blocks());
  }
  return all;
}

}  // namespace scalecom
