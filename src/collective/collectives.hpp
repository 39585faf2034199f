#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/wait.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

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

  /// data = root's data; same size on every rank.
  virtual void broadcast(std::span<std::byte> data, int root, const WaitContext& context) = 0;

  /// all = the ranks' parts in rank order; part r has bytes_per_rank[r] bytes (0 allowed), and
  /// `mine` is this rank's. `mine` may be its own place inside `all`; otherwise no overlap.
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                          std::span<const std::int64_t> bytes_per_rank,
                          const WaitContext& context) = 0;
};

}  // namespace scalecom
