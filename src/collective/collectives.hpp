#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "base/wait.hpp"
#include "collective/scratch.hpp"
#include "kernels/reduce.hpp"
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

/// Typed operations of all ranks of a group. Every rank calls the same operations in the same
/// order with agreeing arguments; the coordinator sees to it. Synchronous; confined to one thread.
///
/// Results are bit-identical on every rank. Errors are thrown (Error: rank_lost, timed_out,
/// internal); after one the group is unusable.
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual std::string_view name() const noexcept = 0;

  /// data = op over ranks of data, in place; `data` holds whole elements of `dtype`.
  /// float16 and bfloat16 are accumulated in float32 at each step. boolean: sum and max are "or",
  /// min and product are "and". `op` is not average (the caller folds the division into a copy).
  virtual void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                          const WaitContext& context) = 0;

  /// The same for pieces: output = after(op over ranks of before(input)), and `done` is told on the
  /// way. Packed into one buffer, unless an implementation knows better.
  virtual void all_reduce_pieces(std::span<const Piece> pieces, DataType dtype, ReduceOp op,
                                 const PiecesDone& done, const WaitContext& context);

  /// data = root's data; same size on every rank.
  virtual void broadcast(std::span<std::byte> data, int root, const WaitContext& context) = 0;

  /// all = the ranks' parts in rank order; part r has bytes_per_rank[r] bytes (0 allowed), and
  /// `mine` is this rank's. `mine` may be its own place inside `all`; otherwise no overlap.
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                          std::span<const std::int64_t> bytes_per_rank,
                          const WaitContext& context) = 0;

  /// What this rank has given to others so far.
  virtual TransportCounters counters() const noexcept = 0;

 private:
  Scratch packed_;
};

}  // namespace scalecom
