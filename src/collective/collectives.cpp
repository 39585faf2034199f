#include "collective/collectives.hpp"

#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "base/error.hpp"

namespace scalecom {
namespace {

void enter(PhaseSink* phases, const char* phase) {
  if (phases != nullptr) phases->enter(phase);
}

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

bool Collectives::advance(const WaitContext& context) {
  if (waiting_.empty()) return false;
  // Off the list only when it is done, so that under_way() counts it meanwhile.
  std::visit([&](const auto& batch) { carry_out(batch, context); }, waiting_.front());
  waiting_.pop_front();
  return true;
}

void Collectives::carry_out(const AllGatherBatch& batch, const WaitContext& context) {
  const auto& [all, bytes] = batch;
  const auto before = std::reduce(bytes.begin(), bytes.begin() + rank(), std::int64_t{0});
  const std::int64_t mine = bytes[static_cast<std::size_t>(rank())];
  all_gather(all.subspan(static_cast<std::size_t>(before), static_cast<std::size_t>(mine)), all,
             bytes, context);
}

void Collectives::carry_out(const AllReduceBatch& batch, const WaitContext& context) {
  const auto& [pieces, dtype, op, done, is_inside_host, sink] = batch;
  SCALECOM_ASSERT(!is_inside_host, std::string(name()) + " know no hosts");
  if (pieces.size() == 1) {
    const Piece& alone = pieces.front();
    enter(sink, phases::kPack);
    kernels::scale_copy(alone.output, alone.input, alone.count, dtype, alone.before);
    enter(sink, phases::kAllReduce);
    all_reduce({alone.output, bytes_of(alone, dtype)}, dtype, op, context);
    enter(sink, phases::kUnpack);
    kernels::scale_copy(alone.output, alone.output, alone.count, dtype, alone.after);
    return done(1);
  }
  enter(sink, phases::kPack);
  std::size_t bytes = 0;
  for (const Piece& piece : pieces) bytes += bytes_of(piece, dtype);
  const std::span<std::byte> packed = packed_.acquire(bytes);
  std::byte* place = packed.data();
  for (const Piece& piece : pieces) {
    kernels::scale_copy(place, piece.input, piece.count, dtype, piece.before);
    place += bytes_of(piece, dtype);
  }
  enter(sink, phases::kAllReduce);
  all_reduce(packed, dtype, op, context);
  enter(sink, phases::kUnpack);
  place = packed.data();
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    kernels::scale_copy(pieces[i].output, place, pieces[i].count, dtype, pieces[i].after);
    place += bytes_of(pieces[i], dtype);
    done(i + 1);
  }
}

void Collectives::pause(WaitLoop& loop, std::string_view what) {
  if (must_poll()) return loop.pause(what);
  const auto time = loop.pause_or_sleep_time(what);
  if (time.count() > 0) wait_for_change(time);
}

void Collectives::hold() { SCALECOM_ASSERT(goes_in_steps(), std::string(name())); }
void Collectives::release() { SCALECOM_ASSERT(goes_in_steps(), std::string(name())); }
void Collectives::discard_under_way(std::size_t) {
  SCALECOM_ASSERT(goes_in_steps(), std::string(name()));
}

void Collectives::discard(std::uint64_t operation) {
  SCALECOM_ASSERT(operation < started_ && !is_done(operation), std::to_string(operation));
  discard_under_way(static_cast<std::size_t>(operation - (started_ - under_way())));
}

void Collectives::all_reduce_pieces(AllReduceBatch batch, const WaitContext& context) {
  wait_for(start_all_reduce(std::move(batch)), context, "all-reduce");
}

void Collectives::wait_for(std::uint64_t operation, const WaitContext& context,
                           std::string_view what) {
  WaitLoop loop(context);
  while (!is_done(operation)) {
    if (advance(context)) {
      loop.restart();
    } else {
      pause(loop, what);
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
