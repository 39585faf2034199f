#include "collective/collectives.hpp"

#include <cstring>
#include <string>
#include <utility>

#include "base/error.hpp"

namespace scalecom {
namespace {

std::size_t bytes_of(const Piece& piece, DataType dtype) {
  return static_cast<std::size_t>(piece.count * size_of(dtype));
}

}  // namespace

AllReduceExplanation Collectives::explain_all_reduce(std::int64_t bytes) const {
  AllReduceExplanation explanation;
  explanation.bytes = bytes;
  explanation.level = name();
  explanation.algorithm = name();
  explanation.block_bytes = bytes;
  explanation.blocks = 1;
  explanation.blocks_under_way = 1;
  return explanation;
}

void Collectives::start_all_reduce(AllReduceBatch batch) { waiting_.push_back(std::move(batch)); }

bool Collectives::advance(const WaitContext& context) {
  if (waiting_.empty()) return false;
  // Off the list only when it is done, so that under_way() counts it meanwhile.
  const auto& [pieces, dtype, op, done] = waiting_.front();
  if (pieces.size() == 1) {
    const Piece& alone = pieces.front();
    kernels::scale_copy(alone.output, alone.input, alone.count, dtype, alone.before);
    all_reduce({alone.output, bytes_of(alone, dtype)}, dtype, op, context);
    kernels::scale_copy(alone.output, alone.output, alone.count, dtype, alone.after);
    done(1);
    waiting_.pop_front();
    return true;
  }
  std::size_t bytes = 0;
  for (const Piece& piece : pieces) bytes += bytes_of(piece, dtype);
  const std::span<std::byte> packed = packed_.acquire(bytes);
  std::byte* place = packed.data();
  for (const Piece& piece : pieces) {
    kernels::scale_copy(place, piece.input, piece.count, dtype, piece.before);
    place += bytes_of(piece, dtype);
  }
  all_reduce(packed, dtype, op, context);
  place = packed.data();
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    kernels::scale_copy(pieces[i].output, place, pieces[i].count, dtype, pieces[i].after);
    place += bytes_of(pieces[i], dtype);
    done(i + 1);
  }
  waiting_.pop_front();
  return true;
}

void Collectives::pause(WaitLoop& loop, std::string_view what) {
  if (must_poll()) return loop.pause(what);
  const auto time = loop.pause_or_sleep_time(what);
  if (time.count() > 0) wait_for_change(time);
}

void Collectives::hold() { SCALECOM_ASSERT(goes_in_steps(), std::string(name())); }
void Collectives::release() { SCALECOM_ASSERT(goes_in_steps(), std::string(name())); }
void Collectives::discard(std::size_t) { SCALECOM_ASSERT(goes_in_steps(), std::string(name())); }

void Collectives::all_reduce_pieces(AllReduceBatch batch, const WaitContext& context) {
  start_all_reduce(std::move(batch));
  WaitLoop loop(context);
  while (under_way() > 0) {
    if (advance(context)) {
      loop.restart();
    } else {
      pause(loop, "all-reduce");
    }
  }
}

void Collectives::broadcast_parts(std::span<const std::span<std::byte>> parts, int root,
                                  const WaitContext& context) {
  if (parts.size() == 1) return broadcast(parts.front(), root, context);
  std::size_t bytes = 0;
  for (const std::span<std::byte> part : parts) bytes += part.size();
  const std::span<std::byte> packed = packed_.acquire(bytes);
  const auto copy_all = [&](bool is_packing) {
    std::byte* place = packed.data();
    for (const std::span<std::byte> part : parts) {
      if (part.empty()) continue;
      std::memcpy(is_packing ? place : part.data(), is_packing ? part.data() : place, part.size());
      place += part.size();
    }
  };
  if (rank() == root) copy_all(true);
  broadcast(packed, root, context);
  if (rank() != root) copy_all(false);
}

}  // namespace scalecom
