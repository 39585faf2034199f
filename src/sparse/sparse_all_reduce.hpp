#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/wait.hpp"
#include "collective/collectives.hpp"
#include "kernels/reduce.hpp"
#include "kernels/select.hpp"
#include "scalecom/compression.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// One tensor of a ScaleCom batch. All spans have `count` elements.
struct SparseSlot {
  std::string_view name;
  /// This rank's gradient, contiguous, of `dtype`. Not changed unless it is `result`.
  const std::byte* gradient = nullptr;
  /// Receives the averaged values on the selected coordinates and zero elsewhere. May be
  /// `gradient`.
  std::byte* result = nullptr;
  /// This rank's memory m, updated in place. Finite after each step if it was before.
  float* residual = nullptr;
  std::int64_t count = 0;
  /// float32, float16 or bfloat16; the residual is float32.
  DataType dtype = DataType::float32;
  /// Chunk length C, 1 to 65,536.
  std::int64_t rate = 1;
  double beta = 1.0;
  /// g = prescale * gradient.
  double prescale = 1.0;
  /// Applied to the reduced values (an average divides by the world size here).
  kernels::Scale result_scale;

  /// Out: elements on this rank that were NaN or Inf in m + g.
  std::int64_t nonfinite_count = 0;
  /// Out: some rank had NaN or Inf, so this tensor went dense in this step: result is the dense
  /// reduction of g, and the residuals keep their values but for one float32 rounding of m + beta
  /// g.
  bool went_dense = false;
};

/// How the ranks share the work of a batch. All ranks have the same.
struct SparsePlan {
  /// cyclic: `leader` selects for all chunks. sharded: each tensor is cut in one shard a rank, and
  /// rank r selects for the shards (r + leader) mod n.
  CompressionMode mode = CompressionMode::cyclic;
  int leader = 0;
  /// Of the values on the wire: float32, float16 or bfloat16.
  DataType values = DataType::float32;
};

/// Calls body(i) once for each i below `count`, in any order and maybe at once; returns when all
/// calls have returned.
using ParallelLoop =
    std::function<void(std::size_t count, const std::function<void(std::size_t)>& body)>;

/// How a batch is cut and worked on. The cuts are the same on all ranks.
struct SparseOptions {
  /// At least so many elements in a cyclic round, or all. About 2 ms of one core: long enough for a
  /// broadcast to be short beside it, short enough beside a large batch for the others to follow
  /// closely.
  std::int64_t round_elements = std::int64_t{1} << 22;
  /// At most so many in a piece, which one thread works on: long enough for results to be written
  /// past the caches.
  std::int64_t piece_elements = std::int64_t{1} << 21;
  ParallelLoop loop = [](std::size_t count, const std::function<void(std::size_t)>& body) {
    for (std::size_t i = 0; i < count; ++i) body(i);
  };
};

/// ScaleCom all-reduce of a batch: CLT-k with error feedback and low-pass filter (Chen et al.,
/// NeurIPS 2020, arXiv 2104.11125, section 3 and algorithm 1).
///
/// Vocabulary: C chunk length, k = ceil(count / C) selected elements, m residual, g gradient,
/// p = m + g. One step: who leads a chunk finds its largest |p| (lowest index on ties) in the pass
/// that updates m; the ranks share in-chunk offsets (8 bits for C <= 256, else 16); the others take
/// p on them in their own pass; all-reduce of the values, and of one flag a tensor that says "I saw
/// NaN or Inf"; the results are written. m <- (1-beta) m + beta (p - sent) holds on every
/// coordinate afterwards, where sent is p as rounded to the values' dtype.
///
/// A round is a part of the batch whose offsets are shared at once. Sharded, there is one, and an
/// all-gather; every rank's one pass is then cut in its own shards and, after the exchange, the
/// others. A chunk belongs to the part that its first element is in. Cyclic, rounds are blocks,
/// each broadcast as soon as it is selected, so that the others are a block behind and not a whole
/// pass.
///
/// Bytes a rank sends (ring): 2(n-1)/n (k + 1) b of values, and of offsets (n-1)/n k sharded, or k
/// at most log2(n) times cyclic. Confined to one thread; owns scratch memory that grows to the
/// largest batch.
class SparseAllReduce {
 public:
  /// `collectives` outlives this object, as does what the loop needs.
  SparseAllReduce(Collectives& collectives, int rank, int size, SparseOptions options = {});

  /// Runs one batch; every rank calls it with agreeing slots and the same plan: exchange(), then
  /// deliver(). Throws what the collectives throw; the residuals are then between two steps and the
  /// session has failed.
  void run(std::span<SparseSlot> slots, const SparsePlan& plan, const WaitContext& context) {
    exchange(slots, plan, context);
    deliver(slots, context);
  }

  /// Up to the reduced values: residuals are changed, results are not.
  void exchange(std::span<SparseSlot> slots, const SparsePlan& plan, const WaitContext& context);
  /// Writes the results of the last exchange().
  void deliver(std::span<SparseSlot> slots, const WaitContext& context);
  /// In place of deliver(): as if there had been no step. Residuals are as before but for one
  /// float32 rounding of m + beta g.
  void take_back(std::span<const SparseSlot> slots);

  /// In place of run(), for a rank that has no data: takes part in an exchange whose values are
  /// thrown away on all ranks. Only count and rate of the slots are looked at.
  void exchange_nothing(std::span<const SparseSlot> slots, const SparsePlan& plan,
                        const WaitContext& context);

 private:
  /// Consecutive chunks of a slot with one leader.
  struct Piece {
    std::size_t slot = 0;
    std::int64_t first = 0;  ///< chunk of the slot
    std::int64_t chunks = 0;
    std::int64_t count = 0;  ///< elements
    std::int64_t wire = 0;   ///< where its offsets start in wire_
    int leader = 0;
    std::int64_t nonfinite_count = 0;
  };

  /// pieces_[first, end); their offsets are wire_[wire, wire + the sum of bytes).
  struct Round {
    std::size_t first = 0;
    std::size_t end = 0;
    std::int64_t wire = 0;
    std::vector<std::int64_t> bytes;  ///< of each rank's offsets, in rank order
  };

  void lay_out(std::span<const SparseSlot> slots, const SparsePlan& plan);
  void cut_shards(std::span<const SparseSlot> slots);
  void cut_rounds(std::span<const SparseSlot> slots);
  void cut(std::span<const SparseSlot> slots, std::size_t index, std::int64_t begin,
           std::int64_t end, int leader);
  void place_round(std::span<const SparseSlot> slots, std::size_t first);
  void select(std::span<const SparseSlot> slots, Piece& piece);
  /// body(piece) for each piece, in options_.loop if they are large enough together.
  template <class Body>
  void for_each(std::span<Piece> pieces, const Body& body);
  void share(const Round& round, const WaitContext& context);
  void gather(std::span<const SparseSlot> slots, Piece& piece);
  void fill(std::span<const SparseSlot> slots, const Piece& piece);
  void reduce_values(const WaitContext& context);
  void take_back(const SparseSlot& slot, std::int64_t begin) const;
  void reduce_dense(SparseSlot& slot, std::int64_t begin, const WaitContext& context);

  std::byte* value(std::int64_t index) { return values_.data() + index * size_of(plan_.values); }
  std::span<std::byte> wire_of(const Piece& piece, std::int64_t rate);
  std::span<std::uint16_t> offsets_of(const Piece& piece);
  kernels::Selected taken_by(const Piece& piece);

  Collectives& collectives_;
  const int rank_;
  const int size_;
  const SparseOptions options_;
  SparsePlan plan_;
  /// Slot i's chunks are starts_[i] to starts_[i + 1] in offsets_, values_ and kept_.
  std::vector<std::int64_t> starts_;
  std::vector<Piece> pieces_;
  std::vector<Round> rounds_;
  std::vector<std::byte> wire_;
  std::vector<std::uint16_t> offsets_;
  /// k values of each tensor, then one flag of each: not 0 where this rank saw NaN or Inf.
  std::vector<std::byte> values_;
  /// The swept memory of the selected coordinates, for a tensor that has to go dense; of one that
  /// does not, the reduced values as float32.
  std::vector<float> kept_;
};

}  // namespace scalecom
