// The operations in shared memory; all-reduce and all-gather are in shm_operation.hpp.
//
// Blocks of a slot's size, which in reduce-scatter and all-to-all has a share for every rank, are
// posted while the one before is copied or reduced out.

#include "collective/shm/shm_collectives.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.hpp"

namespace scalecom {
namespace {

using Phase = Board::Phase;

std::size_t blocks_of(std::size_t bytes, std::size_t block_bytes) {
  return (bytes + block_bytes - 1) / block_bytes;
}

template <class Byte>
std::span<Byte> chunk_of(std::span<Byte> part, std::size_t index, std::size_t chunk_bytes) {
  const std::size_t begin = std::min(part.size(), index * chunk_bytes);
  return part.subspan(begin, std::min(chunk_bytes, part.size() - begin));
}

std::size_t copy(std::byte* to, std::span<const std::byte> from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
  return from.size();
}

// Chunk `index` of every part, each into its rank's share of the slot.
template <class Byte>
std::size_t copy_shares(std::byte* slot, std::span<const std::span<Byte>> parts, std::size_t index,
                        std::size_t share) {
  std::size_t bytes = 0;
  for (const std::span<Byte> part : parts) {
    bytes += copy(slot, chunk_of(part, index, share));
    slot += share;
  }
  return bytes;
}

}  // namespace

ShmCollectives::ShmCollectives(Board& board)
    : ShmCollectives(board, ShmTuning::defaults(board.size(), board.slot_bytes())) {}

void ShmCollectives::wait_for_slot(std::uint64_t block, const WaitContext& context) {
  if (block < Board::kSlots) return;
  board_.wait_for_others(Phase::finished, block - Board::kSlots + 1, context,
                         "shared memory, a free slot");
}

void ShmCollectives::post(std::uint64_t block, std::size_t bytes) {
  board_.publish(Phase::posted, block + 1);
  counters_.add_message(bytes);
}

void ShmCollectives::finish(std::uint64_t block) { board_.publish(Phase::finished, block + 1); }

ShmOperation::Options ShmCollectives::options_for(std::size_t bytes) const noexcept {
  const bool is_flat = bytes <= tuning_.flat_bytes_max;
  return {.block_bytes = is_flat ? board_.slot_bytes() : tuning_.block_bytes_for(bytes),
          .owners = is_flat ? 0 : board_.size()};
}

void ShmCollectives::start(AllReduceBatch batch) {
  const ShmOperation::Options options = options_for(batch.bytes());
  pipeline_.start(std::move(batch), options);
}

void ShmCollectives::start(const AllGatherBatch& batch) {
  ShmGather gather;
  std::size_t end = 0;
  for (const std::int64_t bytes : batch.bytes_per_rank) {
    gather.sources.push_back({end, end + static_cast<std::size_t>(bytes)});
    end += static_cast<std::size_t>(bytes);
  }
  const Piece piece{batch.all.data(), batch.all.data(), static_cast<std::int64_t>(end)};
  pipeline_.start(std::vector{piece}, std::move(gather),
                  ShmOperation::Options{.block_bytes = board_.slot_bytes()});
}

AllReduceExplanation ShmCollectives::explain_all_reduce(std::int64_t bytes) const {
  AllReduceExplanation explanation = Collectives::explain_all_reduce(bytes);
  const auto size = static_cast<std::size_t>(bytes);
  const ShmOperation::Options options = options_for(size);
  const bool is_flat = options.owners == 0;
  explanation.level = "inside the host";
  explanation.algorithm = is_flat ? "flat" : "blocks";
  explanation.block_bytes = static_cast<std::int64_t>(std::min(size, options.block_bytes));
  explanation.blocks = static_cast<std::int64_t>(blocks_of(size, options.block_bytes));
  explanation.blocks_under_way = std::min<std::int64_t>(explanation.blocks, kBlocksUnderWay);
  if (size <= board_.slot_bytes()) {
    explanation.alternatives.push_back(
        {"flat", 1e6 * flat_time_s(bytes, board_.size(), costs_), is_flat});
  }
  explanation.alternatives.push_back({"blocks", 1e6 * blocks_time_s(bytes, costs_), !is_flat});
  return explanation;
}

TransportCounters ShmCollectives::counters() const noexcept {
  TransportCounters all = pipeline_.counters();
  return all += counters_;
}

void ShmCollectives::broadcast(std::span<std::byte> data, int root, const WaitContext& context) {
  broadcast_parts({&data, 1}, root, context);
}

void ShmCollectives::broadcast_parts(std::span<const std::span<std::byte>> parts, int root,
                                     const WaitContext& context) {
  if (board_.size() == 1) return;
  std::vector<Piece> pieces;
  pieces.reserve(parts.size());
  for (const std::span<std::byte> part : parts) {
    pieces.push_back({part.data(), part.data(), static_cast<std::int64_t>(part.size())});
  }
  const PieceList list(std::move(pieces), DataType::uint8);
  const std::size_t slot_bytes = board_.slot_bytes();
  for (std::size_t begin = 0; begin < list.bytes(); begin += slot_bytes) {
    const std::size_t end = std::min(list.bytes(), begin + slot_bytes);
    const std::uint64_t block = board_.take_blocks(1);
    if (board_.rank() == root) {
      wait_for_slot(block, context);
      list.load(board_.slot(root, block), begin, end);
      post(block, end - begin);
    } else {
      board_.wait(root, Phase::posted, block + 1, context, "shared-memory broadcast");
      list.store(board_.slot(root, block), begin, end);
    }
    finish(block);
  }
}

template <class Fill, class Empty>
void ShmCollectives::exchange(std::size_t blocks, const WaitContext& context, const char* what,
                              const Fill& fill, const Empty& empty) {
  const std::uint64_t first = board_.take_blocks(blocks);
  for (std::size_t i = 0; i <= blocks; ++i) {
    if (i < blocks) {
      wait_for_slot(first + i, context);
      post(first + i, fill(board_.slot(board_.rank(), first + i), i));
    }
    if (i == 0) continue;
    const std::uint64_t block = first + i - 1;
    board_.wait_for_others(Phase::posted, block + 1, context, what);
    empty(block, i - 1);
    finish(block);
  }
}

void ShmCollectives::reduce_scatter(std::span<std::byte> data,
                                    std::span<const std::int64_t> bytes_per_rank, DataType dtype,
                                    ReduceOp op, const WaitContext& context) {
  const auto parts = cut(data, bytes_per_rank);
  const std::size_t share = share_of_slot();
  const Reduction reduction{dtype, op};
  const auto self = static_cast<std::size_t>(board_.rank());
  std::size_t longest = 0;
  for (const std::span<std::byte> part : parts) longest = std::max(longest, part.size());
  exchange(
      blocks_of(longest, share), context, "shared-memory reduce-scatter",
      [&](std::byte* slot, std::size_t i) { return copy_shares<std::byte>(slot, parts, i, share); },
      [&](std::uint64_t block, std::size_t i) {
        reduce_slots(board_, block, self * share, chunk_of(parts[self], i, share), reduction);
      });
}

void ShmCollectives::all_to_all(std::span<const std::byte> send,
                                std::span<const std::int64_t> send_bytes,
                                std::span<std::byte> receive,
                                std::span<const std::int64_t> receive_bytes,
                                const WaitContext& context) {
  const auto to = cut(send, send_bytes);
  const auto from = cut(receive, receive_bytes);
  const std::size_t share = share_of_slot();
  const auto self = static_cast<std::size_t>(board_.rank());
  // A rank knows its own parts only, but all take part in the same number of blocks.
  std::int64_t blocks = 0;
  for (const std::span<const std::byte> part : to) {
    blocks = std::max(blocks, static_cast<std::int64_t>(blocks_of(part.size(), share)));
  }
  all_reduce(std::as_writable_bytes(std::span(&blocks, 1)), DataType::int64, ReduceOp::max,
             context);
  exchange(
      static_cast<std::size_t>(blocks), context, "shared-memory all-to-all",
      [&](std::byte* slot, std::size_t i) {
        return copy_shares<const std::byte>(slot, to, i, share);
      },
      [&](std::uint64_t block, std::size_t i) {
        for (int rank = 0; rank < board_.size(); ++rank) {
          const auto place = chunk_of(from[static_cast<std::size_t>(rank)], i, share);
          copy(place.data(), {board_.slot(rank, block) + self * share, place.size()});
        }
      });
}

// Of a slot that has something for every rank.
std::size_t ShmCollectives::share_of_slot() const noexcept {
  const std::size_t share = board_.slot_bytes() / static_cast<std::size_t>(board_.size());
  return share / Board::kLineBytes * Board::kLineBytes;
}

}  // namespace scalecom
