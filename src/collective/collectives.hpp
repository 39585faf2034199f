#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/phase_sink.hpp"
#include "base/wait.hpp"
#include "collective/scratch.hpp"
#include "kernels/reduce.hpp"
#include "scalecom/explanation.hpp"
#include "scalecom/tensor.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// One of several vectors that are reduced together, as one vector in this order.
struct Piece {
  const std::byte* input = nullptr;
  std::byte* output = nullptr;  ///< may be `input`; otherwise no overlap
  std::int64_t count = 0;       ///< elements
  kernels::Scale before = {};   ///< applied to the input
  kernels::Scale after = {};    ///< applied to the result
};

/// Told as soon as further pieces have their result: those before `count` have it now.
using PiecesDone = std::function<void(std::size_t count)>;

/// One all-reduce of pieces: output = after(op over ranks of before(input)).
struct AllReduceBatch {
  std::vector<Piece> pieces;  ///< at least one; their memory stays until the last one is done
  DataType dtype = DataType::float32;
  ReduceOp op = ReduceOp::sum;  ///< neither average nor adasum
  PiecesDone done;              ///< told on the way, from within advance()
  /// Only over the ranks of this host, host_size() of them. Such a one may be done before ranks of
  /// other hosts have begun it.
  bool is_inside_host = false;
  /// Is told that the first block is packed, that blocks travel, that the last one is unpacked;
  /// null: nobody. Lives until the batch is done.
  PhaseSink* phases = nullptr;

  /// data = op over ranks of data; nobody is told.
  static AllReduceBatch in_place(std::span<std::byte> data, DataType dtype, ReduceOp op) {
    const std::int64_t count = static_cast<std::int64_t>(data.size()) / size_of(dtype);
    return {{{data.data(), data.data(), count}}, dtype, op, [](std::size_t) {}};
  }
  std::size_t bytes() const noexcept {
    std::int64_t count = 0;
    for (const Piece& piece : pieces) count += piece.count;
    return static_cast<std::size_t>(count * size_of(dtype));
  }
};

/// One all-gather: part r of `all` is rank r's; this rank's is there already.
struct AllGatherBatch {
  std::span<std::byte> all;  ///< stays until it is done
  std::vector<std::int64_t> bytes_per_rank;
};

/// Typed operations of all ranks of a group. Every rank calls the same operations in the same
/// order with agreeing arguments; the coordinator sees to it. Synchronous but for
/// start_...(); confined to one thread.
///
/// What every rank gets is bit-identical. Errors are thrown (Error: rank_lost, timed_out,
/// internal); after one the group is unusable.
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual std::string_view name() const noexcept = 0;
  virtual int rank() const noexcept = 0;
  /// Ranks, this one among them, that reduce by themselves in the memory of their host.
  virtual int host_size() const noexcept { return 1; }

  /// data = op over ranks of data, in place; `data` holds whole elements of `dtype`.
  /// float16 and bfloat16 are accumulated in float32 at each step. boolean: sum and max are "or",
  /// min and product are "and". `op` is neither adasum nor average (the caller folds the division
  /// into a copy).
  virtual void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                          const WaitContext& context) = 0;

  /// The same for pieces, in the background: advance() moves it on. Operations that are under way
  /// at once overlap; they complete in the order of their start, which is the same on all ranks.
  /// The others require that none is under way. Returns the operation's number.
  std::uint64_t start_all_reduce(AllReduceBatch batch) {
    enqueue(std::move(batch));
    return started_++;
  }
  /// An all-gather in the background, among the all-reduces.
  std::uint64_t start_all_gather(AllGatherBatch batch) {
    enqueue(std::move(batch));
    return started_++;
  }

  /// Does what can be done now for what is under way, without waiting for other ranks where the
  /// implementation can (else within `context`). False: nothing could be done.
  virtual bool advance(const WaitContext& context);

  /// Operations that have been started and are not done.
  virtual std::size_t under_way() const noexcept { return waiting_.size(); }
  bool is_done(std::uint64_t operation) const noexcept {
    return operation + under_way() < started_;
  }

  /// Whether advance() never waits, and the three below work: results under way can be held back
  /// and thrown away.
  virtual bool goes_in_steps() const noexcept { return false; }
  /// From now until release() no result reaches its place: what is reduced or gathered waits.
  virtual void hold();
  virtual void release();
  /// An all-reduce that is under way, no result of which has reached a piece: its communication
  /// goes on, but no piece is read or written any more, and nobody is told.
  void discard(std::uint64_t operation);

  /// Whether what is under way has to be polled: messages wake nobody, nor does release().
  virtual bool must_poll() const noexcept { return false; }

  /// Unless it must be polled: sleeps until what the oldest operation waits for may have come; may
  /// return early.
  virtual void wait_for_change(std::chrono::nanoseconds) {}

  /// After an advance() in vain: gives time away by one of the loop's pauses.
  void pause(WaitLoop& loop, std::string_view what);

  /// start_all_reduce(), and waits for it and all before it.
  void all_reduce_pieces(AllReduceBatch batch, const WaitContext& context);

  /// Moves on what is under way until `operation` is done; `what` names it in errors.
  void wait_for(std::uint64_t operation, const WaitContext& context, std::string_view what);

  /// data = root's data; same size on every rank.
  virtual void broadcast(std::span<std::byte> data, int root, const WaitContext& context) = 0;

  /// The same for several vectors, as one: packed into one buffer, unless an implementation knows
  /// better.
  virtual void broadcast_parts(std::span<const std::span<std::byte>> parts, int root,
                               const WaitContext& context);

  /// all = the ranks' parts in rank order; part r has bytes_per_rank[r] bytes (0 allowed), and
  /// `mine` is this rank's. `mine` may be its own place inside `all`; otherwise no overlap.
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                          std::span<const std::int64_t> bytes_per_rank,
                          const WaitContext& context) = 0;

  /// Part `rank` of data = op over ranks of that part. `data` is this rank's whole input, cut in
  /// rank order into parts of bytes_per_rank bytes (whole elements, 0 allowed); what the other
  /// parts hold afterwards is not specified. dtype and op as in all_reduce. Every part is reduced
  /// on one rank, always in the same order.
  virtual void reduce_scatter(std::span<std::byte> data,
                              std::span<const std::int64_t> bytes_per_rank, DataType dtype,
                              ReduceOp op, const WaitContext& context) = 0;

  /// Part p of `receive` = the part of rank p's `send` that is for this rank. Both are cut in rank
  /// order, into parts of send_bytes and receive_bytes bytes (0 allowed), and do not overlap.
  /// send_bytes[p] here equals receive_bytes[this rank] on rank p.
  virtual void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                          std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                          const WaitContext& context) = 0;

  /// How all_reduce() carries out `bytes`. Any thread.
  virtual AllReduceExplanation explain_all_reduce(std::int64_t bytes) const;

  /// What this rank has given to others so far.
  virtual TransportCounters counters() const noexcept = 0;

 protected:
  using Operation = std::variant<AllReduceBatch, AllGatherBatch>;

 private:
  /// Unless overridden nothing overlaps: operations are carried out one by one.
  virtual void enqueue(Operation operation) { waiting_.push_back(std::move(operation)); }
  /// `index` counts from the oldest operation under way.
  virtual void discard_under_way(std::size_t index);
  void carry_out(const AllReduceBatch& batch, const WaitContext& context);
  void carry_out(const AllGatherBatch& batch, const WaitContext& context);

  std::uint64_t started_ = 0;
  std::deque<Operation> waiting_;
  Scratch packed_;
};

}  // namespace scalecom
