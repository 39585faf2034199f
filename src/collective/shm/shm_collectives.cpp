// The operations in shared memory, other than the pipelined all-reduce (shm_all_reduce.hpp).
//
// n ranks, S bytes. Inline (S <= 56): one cache line a rank carries data and flag. Flat: every rank
// posts S and reduces all n slots by itself: 1 step, n S of reads. Broadcast, all-gather: blocks of
// a slot's size are posted while the one before is copied out.

#include "collective/shm/shm_collectives.hpp"

#include <array>
#include <cstring>
#include <vector>

#include "base/error.hpp"

namespace scalecom {
namespace {

using Phase = Board::Phase;

constexpr std::size_t kBlockBytes = 512 << 10;
constexpr std::size_t kFlatBytesMax = 512 << 10;

std::size_t blocks_of(std::size_t bytes, std::size_t block_bytes) {
  return (bytes + block_bytes - 1) / block_bytes;
}

}  // namespace

// Flat reads n S in one step where blocks read about 3 S in three.
ShmTuning ShmTuning::defaults(int ranks, std::size_t slot_bytes) {
  const auto n = static_cast<std::size_t>(ranks);
  return {.flat_bytes_max = std::min(slot_bytes, kFlatBytesMax / n),
          .block_bytes = std::min(slot_bytes, kBlockBytes)};
}

ShmCollectives::ShmCollectives(Board& board)
    : ShmCollectives(board, ShmTuning::defaults(board.size(), board.slot_bytes())) {}

void ShmCollectives::wait_for_slot(std::uint64_t block, const WaitContext& context) {
  if (block < Board::kSlots) return;
  board_.wait_for_others(Phase::finished, block - Board::kSlots + 1, context,
                         "shared memory, a free slot");
}

void ShmCollectives::post(std::uint64_t block, std::size_t bytes) {
  board_.publish(Phase::posted, block + 1);
  count(bytes);
}

void ShmCollectives::finish(std::uint64_t block) { board_.publish(Phase::finished, block + 1); }

void ShmCollectives::count(std::size_t bytes) {
  counters_.bytes_sent += static_cast<std::int64_t>(bytes);
  counters_.messages_sent += 1;
}

void ShmCollectives::all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                                const WaitContext& context) {
  const Piece piece{data.data(), data.data(),
                    static_cast<std::int64_t>(data.size()) / size_of(dtype)};
  all_reduce_pieces(
      {&piece, 1}, dtype, op, [](std::size_t) {}, context);
}

void ShmCollectives::all_reduce_pieces(std::span<const Piece> pieces, DataType dtype, ReduceOp op,
                                       const PiecesDone& done, const WaitContext& context) {
  const PieceList list(pieces, dtype);
  const Reduction reduction{dtype, op};
  if (list.bytes() <= tuning_.flat_bytes_max) {
    if (list.bytes() > Board::kInlineBytes) {
      reduce_flat(list, reduction, context);
    } else if (list.bytes() > 0) {
      reduce_inline(list, reduction, context);
    }
    done(pieces.size());
    return;
  }
  ShmAllReduce pipeline(board_, list, reduction, done,
                        {.block_bytes = tuning_.block_bytes, .owners = board_.size()});
  WaitLoop loop(context);
  while (!pipeline.is_done()) {
    const std::uint64_t posted = pipeline.posted();
    if (pipeline.advance()) {
      counters_.messages_sent += static_cast<std::int64_t>(pipeline.posted() - posted);
      loop.restart();
      continue;
    }
    const auto time = loop.pause_or_sleep_time("shared-memory all-reduce");
    if (time.count() > 0) pipeline.wait_for_change(time);
  }
  counters_.bytes_sent += static_cast<std::int64_t>(list.bytes());
}

void ShmCollectives::reduce_flat(const PieceList& pieces, const Reduction& reduction,
                                 const WaitContext& context) {
  const std::uint64_t block = board_.take_blocks(1);
  const std::size_t bytes = pieces.bytes();
  wait_for_slot(block, context);
  pieces.load(board_.slot(board_.rank(), block), 0, bytes);
  post(block, bytes);
  board_.wait_for_others(Phase::posted, block + 1, context, "shared-memory all-reduce");
  alignas(64) std::array<std::byte, kReduceTileBytes> tile;
  for (std::size_t begin = 0; begin < bytes; begin += tile.size()) {
    const std::size_t end = std::min(bytes, begin + tile.size());
    reduce_slots(board_, block, begin, std::span(tile).first(end - begin), reduction);
    pieces.store(tile.data(), begin, end);
  }
  finish(block);
}

void ShmCollectives::reduce_inline(const PieceList& pieces, const Reduction& reduction,
                                   const WaitContext& context) {
  const std::uint64_t block = board_.take_blocks(1);
  const std::size_t bytes = pieces.bytes();
  alignas(8) std::array<std::byte, Board::kInlineBytes> values;
  pieces.load(values.data(), 0, bytes);
  wait_for_slot(block, context);
  board_.post_inline(block, std::span(values).first(bytes));
  count(bytes);
  for (int rank = 0; rank < board_.size(); ++rank) {
    WaitLoop loop(context);
    while (!board_.has_inline(rank, block)) {
      const auto time = loop.pause_or_sleep_time("shared-memory all-reduce");
      if (time.count() > 0) board_.wait_for_change(rank, Phase::posted, block + 1, time);
    }
    const std::byte* theirs = board_.inline_data(rank, block);
    if (rank == 0) {
      std::memcpy(values.data(), theirs, bytes);
    } else {
      reduction(values.data(), values.data(), theirs, bytes);
    }
  }
  finish(block);
  pieces.store(values.data(), 0, bytes);
}

void ShmCollectives::broadcast(std::span<std::byte> data, int root, const WaitContext& context) {
  const std::size_t slot_bytes = board_.slot_bytes();
  const std::size_t blocks = blocks_of(data.size(), slot_bytes);
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::uint64_t block = board_.take_blocks(1);
    const auto part =
        data.subspan(i * slot_bytes, std::min(slot_bytes, data.size() - i * slot_bytes));
    if (board_.rank() == root) {
      wait_for_slot(block, context);
      std::memcpy(board_.slot(root, block), part.data(), part.size());
      post(block, part.size());
    } else {
      board_.wait(root, Phase::posted, block + 1, context, "shared-memory broadcast");
      std::memcpy(part.data(), board_.slot(root, block), part.size());
    }
    finish(block);
  }
}

void ShmCollectives::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                std::span<const std::int64_t> bytes_per_rank,
                                const WaitContext& context) {
  const std::size_t slot_bytes = board_.slot_bytes();
  std::vector<std::span<std::byte>> parts;
  std::size_t longest = 0;
  for (std::size_t begin = 0; const std::int64_t bytes : bytes_per_rank) {
    parts.push_back(all.subspan(begin, static_cast<std::size_t>(bytes)));
    begin += parts.back().size();
    longest = std::max(longest, parts.back().size());
  }
  const auto self = static_cast<std::size_t>(board_.rank());
  SCALECOM_ASSERT(
      mine.size() == parts[self].size(),
      std::to_string(mine.size()) + " bytes, " + std::to_string(parts[self].size()) + " agreed");
  const auto chunk = [&](std::size_t part_bytes, std::size_t i) {
    const std::size_t begin = std::min(part_bytes, i * slot_bytes);
    return std::pair(begin, std::min(slot_bytes, part_bytes - begin));
  };
  const std::size_t blocks = blocks_of(longest, slot_bytes);
  const std::uint64_t first = board_.take_blocks(blocks);
  for (std::size_t i = 0; i <= blocks; ++i) {
    if (i < blocks) {
      wait_for_slot(first + i, context);
      const auto [begin, bytes] = chunk(mine.size(), i);
      if (bytes > 0) std::memcpy(board_.slot(board_.rank(), first + i), mine.data() + begin, bytes);
      post(first + i, bytes);
    }
    if (i == 0) continue;
    const std::uint64_t block = first + i - 1;
    for (int rank = 0; rank < board_.size(); ++rank) {
      const std::span<std::byte> part = parts[static_cast<std::size_t>(rank)];
      const auto [begin, bytes] = chunk(part.size(), i - 1);
      if (rank == board_.rank() || bytes == 0) continue;
      board_.wait(rank, Phase::posted, block + 1, context, "shared-memory all-gather");
      std::memcpy(part.data() + begin, board_.slot(rank, block), bytes);
    }
    finish(block);
  }
  if (!mine.empty() && mine.data() != parts[self].data()) {
    std::memcpy(parts[self].data(), mine.data(), mine.size());
  }
}

}  // namespace scalecom
