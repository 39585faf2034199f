#include "collective/device/staged_collectives.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace scalecom {
namespace {

// Whole elements of every dtype, and of the vectors of the host's kernels.
constexpr std::size_t kSliceUnit = 64;

std::size_t slice_bytes_for(std::size_t block_bytes, int ranks) {
  const std::size_t share = block_bytes / static_cast<std::size_t>(ranks);
  return std::max(share / kSliceUnit * kSliceUnit, StagedCollectives::kSliceBytesMin);
}

std::int64_t turns_of(std::int64_t bytes, std::size_t bytes_per_turn) {
  const auto unit = static_cast<std::int64_t>(bytes_per_turn);
  return (bytes + unit - 1) / unit;
}

}  // namespace

template <class Body>
auto StagedCollectives::guarded(const Body& body) {
  ensure_usable();
  try {
    return body();
  } catch (const Error& error) {
    failure_ = error;
    throw;
  }
}

StagedCollectives::StagedCollectives(Accelerator& accelerator, Collectives& host, int size,
                                     Options options)
    : accelerator_(accelerator),
      host_(host),
      size_(size),
      options_(std::move(options)),
      blocks_max_(options_.blocks_max),
      slice_bytes_(slice_bytes_for(options_.block_bytes, size)) {
  SCALECOM_ASSERT(options_.block_bytes % 8 == 0 && options_.blocks_max > 0,
                  fmt::format("{} blocks of {} bytes", options_.blocks_max, options_.block_bytes));
  const auto entered = accelerator_.enter();
  in_ = accelerator_.make_stream();
  out_ = accelerator_.make_stream();
  posted_ = accelerator_.make_event();
}

std::string StagedCollectives::description() const {
  return fmt::format("copies through pinned memory, and {}{}{}", host_.name(),
                     options_.reason.empty() ? "" : "; ", options_.reason);
}

void StagedCollectives::all_reduce(std::byte* data, std::int64_t count, DataType dtype, ReduceOp op,
                                   Span span, StreamHandle stream, const WaitContext&) {
  const bool is_inside_host = span == Span::host;
  const std::int64_t bytes = count * size_of(dtype);
  const bool is_alone = (is_inside_host ? host_size() : size_) == 1;
  start(stream, is_alone ? 0 : turns_of(bytes, options_.block_bytes),
        [=, this](std::int64_t index) {
          const std::size_t begin = static_cast<std::size_t>(index) * options_.block_bytes;
          const std::size_t length =
              std::min(options_.block_bytes, static_cast<std::size_t>(bytes) - begin);
          const std::vector<Copy> copies{{data + begin, 0, length}};
          const auto run = [=, this](std::span<std::byte> block, const WaitContext&) {
            AllReduceBatch batch = AllReduceBatch::in_place(block, dtype, op);
            batch.is_inside_host = is_inside_host;
            return host_.start_all_reduce(std::move(batch));
          };
          return Turn{length, copies, copies, false, run};
        });
}

std::int64_t StagedCollectives::turns_for(std::span<const std::int64_t> parts) const {
  std::int64_t turns = 0;
  for (const std::int64_t bytes : parts) turns = std::max(turns, turns_of(bytes, slice_bytes_));
  return turns;
}

StagedCollectives::Slices StagedCollectives::cut_slices(std::byte* data,
                                                        std::span<const std::int64_t> parts,
                                                        std::int64_t turn,
                                                        std::size_t first_place) const {
  Slices slices;
  slices.end = first_place;
  const auto slice = static_cast<std::int64_t>(slice_bytes_);
  for (const std::int64_t part : parts) {
    const std::int64_t begin = std::min(part, turn * slice);
    const std::int64_t length = std::min(part - begin, slice);
    slices.copies.push_back({data + begin, slices.end, static_cast<std::size_t>(length)});
    slices.bytes.push_back(length);
    slices.end += static_cast<std::size_t>(length);
    data += part;
  }
  return slices;
}

void StagedCollectives::all_gather(std::byte* all, std::span<const std::int64_t> bytes_per_rank,
                                   StreamHandle stream, const WaitContext&) {
  const std::vector<std::int64_t> parts(bytes_per_rank.begin(), bytes_per_rank.end());
  start(stream, size_ == 1 ? 0 : turns_for(parts), [=, this](std::int64_t index) {
    Slices slices = cut_slices(all, parts, index, 0);
    const auto mine = slices.copies.begin() + rank();
    const std::vector<Copy> in{*mine};
    slices.copies.erase(mine);
    const auto run = [this, bytes = slices.bytes](std::span<std::byte> block, const WaitContext&) {
      return host_.start_all_gather({block, bytes});
    };
    return Turn{slices.end, in, std::move(slices.copies), false, run};
  });
}

void StagedCollectives::broadcast(std::byte* data, std::int64_t bytes, int root,
                                  StreamHandle stream, const WaitContext&) {
  start(stream, size_ == 1 ? 0 : turns_of(bytes, options_.block_bytes),
        [=, this](std::int64_t index) {
          const std::size_t begin = static_cast<std::size_t>(index) * options_.block_bytes;
          const std::size_t length =
              std::min(options_.block_bytes, static_cast<std::size_t>(bytes) - begin);
          const auto run = [=, this](std::span<std::byte> block, const WaitContext& context) {
            host_.broadcast(block, root, context);
            return std::uint64_t{0};
          };
          Turn turn{length, {}, {}, true, run};
          (rank() == root ? turn.in : turn.out).push_back({data + begin, 0, length});
          return turn;
        });
}

void StagedCollectives::reduce_scatter(std::byte* data,
                                       std::span<const std::int64_t> bytes_per_rank, DataType dtype,
                                       ReduceOp op, StreamHandle stream, const WaitContext&) {
  const std::vector<std::int64_t> parts(bytes_per_rank.begin(), bytes_per_rank.end());
  start(stream, size_ == 1 ? 0 : turns_for(parts), [=, this](std::int64_t index) {
    const Slices slices = cut_slices(data, parts, index, 0);
    const auto run = [=, this, bytes = slices.bytes](std::span<std::byte> block,
                                                     const WaitContext& context) {
      host_.reduce_scatter(block, bytes, dtype, op, context);
      return std::uint64_t{0};
    };
    return Turn{
        slices.end, slices.copies, {slices.copies[static_cast<std::size_t>(rank())]}, true, run};
  });
}

void StagedCollectives::all_to_all(const std::byte* send, std::span<const std::int64_t> send_bytes,
                                   std::byte* receive, std::span<const std::int64_t> receive_bytes,
                                   StreamHandle stream, const WaitContext&) {
  if (size_ == 1) {
    return guarded([&] {
      const auto entered = accelerator_.enter();
      const auto bytes = static_cast<std::size_t>(send_bytes.front());
      if (bytes > 0) accelerator_.copy(receive, send, bytes, stream);
    });
  }
  const std::vector<std::int64_t> sent(send_bytes.begin(), send_bytes.end());
  const std::vector<std::int64_t> received(receive_bytes.begin(), receive_bytes.end());
  // Only read: copies in have the device's memory as their source.
  auto* const source = const_cast<std::byte*>(send);
  const auto agree = [this, turns = std::max(turns_for(sent), turns_for(received))](
                         std::span<std::byte>, const WaitContext& context) {
    std::int64_t most = turns;
    host_.all_reduce(std::as_writable_bytes(std::span(&most, 1)), DataType::int64, ReduceOp::max,
                     context);
    // Behind all that were started before: it is the oldest whose turns are not known.
    std::ranges::find_if(operations_, [](const Operation& o) { return !o.turns; })->turns =
        1 + most;
    return std::uint64_t{0};
  };
  start(stream, std::nullopt, [=, this](std::int64_t index) {
    if (index == 0) return Turn{0, {}, {}, true, agree};
    const Slices out = cut_slices(source, sent, index - 1, 0);
    const Slices in = cut_slices(receive, received, index - 1, out.end);
    const auto run = [this, from = out.bytes, to = in.bytes, middle = out.end](
                         std::span<std::byte> block, const WaitContext& context) {
      host_.all_to_all(block.first(middle), from, block.subspan(middle), to, context);
      return std::uint64_t{0};
    };
    return Turn{in.end, out.copies, in.copies, true, run};
  });
}

void StagedCollectives::start(StreamHandle stream, std::optional<std::int64_t> turns,
                              std::function<Turn(std::int64_t)> make_turn) {
  guarded([&] {
    const auto entered = accelerator_.enter();
    Operation operation{stream, turns, std::move(make_turn), nullptr};
    if (idle_events_.empty()) {
      operation.begin = accelerator_.make_event();
    } else {
      operation.begin = std::move(idle_events_.back());
      idle_events_.pop_back();
    }
    accelerator_.record(operation.begin.get(), stream);
    operations_.push_back(std::move(operation));
    begin_turns();
    post_finished();
  });
}

bool StagedCollectives::advance(const WaitContext& context) {
  return guarded([&] {
    if (operations_.empty()) return false;
    bool has_moved = begin_turns();
    has_moved = start_on_host(context) || has_moved;
    return finish_turns() || has_moved;
  });
}

StagedCollectives::Operation* StagedCollectives::next_to_begin() {
  for (Operation& operation : operations_) {
    if (!operation.turns) return operation.begun == 0 ? &operation : nullptr;
    if (operation.begun < *operation.turns) return &operation;
  }
  return nullptr;
}

StagedCollectives::Block* StagedCollectives::find_idle_block() {
  for (const auto& block : blocks_) {
    if (block->is_idle && accelerator_.is_done(block->copied_out.get())) return block.get();
  }
  return blocks_.size() < blocks_max_ ? add_block() : nullptr;
}

// Null: there is no memory for another one.
StagedCollectives::Block* StagedCollectives::add_block() {
  const auto entered = accelerator_.enter();
  auto block = std::make_unique<Block>();
  block->copied_in = accelerator_.make_event();
  block->copied_out = accelerator_.make_event();
  block->capacity = std::bit_ceil(options_.block_bytes);
  try {
    block->memory = accelerator_.allocate_pinned(block->capacity);
  } catch (const Error& error) {
    if (error.code() != StatusCode::unavailable || blocks_.empty()) throw;
    blocks_max_ = blocks_.size();
    log_warning(
        fmt::format("CUDA tensors go through the host's memory in {} blocks and not {}, "
                    "and slower: {}",
                    blocks_max_, options_.blocks_max, error.what()));
    return nullptr;
  }
  return blocks_.emplace_back(std::move(block)).get();
}

bool StagedCollectives::begin_turns() {
  bool has_moved = false;
  while (Operation* operation = next_to_begin()) {
    Block* block = find_idle_block();
    if (block == nullptr) break;
    const auto entered = accelerator_.enter();
    Turn turn = operation->make_turn(operation->begun++);
    if (block->capacity < turn.bytes) {
      // Not freed on the way: that would wait for the device, which a lost rank may hold up.
      block->former.push_back(std::move(block->memory));
      block->capacity = std::bit_ceil(turn.bytes);
      block->memory = accelerator_.allocate_pinned(block->capacity);
    }
    // Not at the operation's start: turns of those before go first. Before the operation begins in
    // its stream, others still use its memory, also where it is written alone: what is copied out
    // comes behind copied_in.
    accelerator_.make_wait(in_.get(), operation->begin.get());
    for (const Copy& copy : turn.in) {
      if (copy.bytes == 0) continue;
      accelerator_.copy(block->memory.get() + copy.place, copy.device, copy.bytes, in_.get());
    }
    accelerator_.record(block->copied_in.get(), in_.get());
    block->is_idle = false;
    turns_.push_back({*operation, std::move(turn), *block});
    has_moved = true;
  }
  return has_moved;
}

bool StagedCollectives::start_on_host(const WaitContext& context) {
  bool has_moved = false;
  for (TurnUnderWay& work : turns_) {
    if (work.is_on_host) continue;
    if (!accelerator_.is_done(work.block.copied_in.get())) break;
    if (work.turn.is_alone && host_.under_way() > 0) break;
    const auto run = work.turn.run;  // What it waits for may end in abort(), which drops the turn.
    work.host_operation = run({work.block.memory.get(), work.turn.bytes}, context);
    work.is_on_host = has_moved = true;
  }
  return has_moved;
}

bool StagedCollectives::finish_turns() {
  bool has_moved = false;
  while (!turns_.empty() && turns_.front().is_on_host) {
    TurnUnderWay& work = turns_.front();
    if (!work.turn.is_alone && !host_.is_done(work.host_operation)) break;
    const auto entered = accelerator_.enter();
    for (const Copy& copy : work.turn.out) {
      if (copy.bytes == 0) continue;
      accelerator_.copy(copy.device, work.block.memory.get() + copy.place, copy.bytes, out_.get());
      work.operation.has_copied_out = true;
    }
    accelerator_.record(work.block.copied_out.get(), out_.get());
    work.block.is_idle = true;
    ++work.operation.finished;
    turns_.pop_front();
    has_moved = true;
  }
  post_finished();
  return has_moved;
}

void StagedCollectives::post_finished() {
  while (!operations_.empty() && operations_.front().turns == operations_.front().finished) {
    Operation& operation = operations_.front();
    if (operation.has_copied_out) {
      const auto entered = accelerator_.enter();
      accelerator_.record(posted_.get(), out_.get());
      accelerator_.make_wait(operation.stream, posted_.get());
    }
    idle_events_.push_back(std::move(operation.begin));
    operations_.pop_front();
  }
}

void StagedCollectives::close(const WaitContext& context) {
  guarded([&] {
    SCALECOM_ASSERT(is_posted(), fmt::format("{} operations are not posted", operations_.size()));
    WaitLoop loop(context);
    while (!accelerator_.is_done(posted_.get())) loop.pause("the last copies to the device");
  });
}

void StagedCollectives::abort() noexcept {
  if (!failure_) failure_ = Error(StatusCode::shut_down, "the collectives were aborted");
  // Copies that are on their way end before what comes next on the operations' streams.
  try {
    const auto entered = accelerator_.enter();
    for (const Operation& operation : operations_) {
      for (const StreamHandle own : {in_.get(), out_.get()}) {
        accelerator_.record(posted_.get(), own);
        accelerator_.make_wait(operation.stream, posted_.get());
      }
    }
  } catch (const std::exception&) {  // The device is lost: there is nothing to wait for.
  }
  turns_.clear();
  operations_.clear();
}

void StagedCollectives::ensure_usable() const {
  if (failure_) throw *failure_;
}

}  // namespace scalecom
