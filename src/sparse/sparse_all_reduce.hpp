#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/phase_sink.hpp"
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
  /// This rank's residual m, updated in place. Finite after each step if it was before.
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
  /// rank r selects for the shards (r + leader) mod n. hierarchical: sharded, where each rank's
  /// gradient is the average over the ranks of its host. Their sum is the same, so nothing else
  /// changes: the ranks of a host have one residual, each its share of it.
  CompressionMode mode = CompressionMode::cyclic;
  int leader = 0;
  /// Of the values on the wire: float32, float16 or bfloat16.
  DataType values = DataType::float32;
};

/// What the selection has left of a slot's step.
struct SparseChoice {
  /// Of the selected element in each chunk.
  std::vector<std::uint16_t> offsets;
  /// m + beta g on the selected elements.
  std::vector<float> kept;
};

class SparseAllReduce;

/// Looks at a batch that is selected and swept, before results are written. Every rank makes the
/// same decision to look. What it returns, float32 and as many on all ranks, is replaced by the sum
/// over the ranks before the batch is done; empty: nothing to sum.
using SparseLook = std::function<std::span<std::byte>(const SparseAllReduce&)>;

/// Calls body(i) once for each i below `count`, in any order and maybe at once; returns when all
/// calls have returned.
using ParallelLoop =
    std::function<void(std::size_t count, const std::function<void(std::size_t)>& body)>;

/// How a batch is cut and worked on. The cuts are the same on all ranks.
struct SparseOptions {
  /// A round has about so many elements, or all. About 2 ms of one core: long enough for an
  /// exchange to be short beside it, short enough for the wire to be busy early.
  std::int64_t round_elements = std::int64_t{1} << 22;
  /// At most so many in a piece, which one thread works on: the collectives advance in between.
  std::int64_t piece_elements = std::int64_t{1} << 19;
  /// Threads of the loop.
  int threads = 1;
  ParallelLoop loop = [](std::size_t count, const std::function<void(std::size_t)>& body) {
    for (std::size_t i = 0; i < count; ++i) body(i);
  };
};

/// ScaleCom all-reduce of a batch: CLT-k with error feedback and low-pass filter (Chen et al.,
/// NeurIPS 2020, arXiv 2104.11125, section 3 and algorithm 1), in steps that do not wait.
///
/// Vocabulary: C chunk length, k = ceil(count / C) selected elements, m residual, g gradient,
/// p = m + g. One step: who leads a chunk finds its largest |p| (lowest index on ties) in the pass
/// that updates m; the ranks share in-chunk offsets (8 bits for C <= 256, else 16); the others take
/// p on them in their own pass; all-reduce of the values, and of one flag a tensor that says "I saw
/// NaN or Inf"; the results are written. m <- (1-beta) m + beta (p - sent) holds on every
/// coordinate afterwards, where sent is p as rounded to the values' dtype.
///
/// A round is a part of the batch whose offsets are shared at once, by an all-gather. While the
/// offsets of one travel, the next is selected, and so the values of those before. Every tensor is
/// cut in as many shards as leaders; a round has its share of each. A chunk belongs to the part
/// that its first element is in.
///
/// The flags are reduced before the last round's values. Once they are known, the results of the
/// rounds before are written while these travel; a tensor with a flag has its residual and gradient
/// still, and is reduced densely instead. All communication of the batch is in order then, and
/// another may begin.
///
/// Bytes a rank sends (ring): 2(n-1)/n (k b + 1), and of offsets (n-1)/n k sharded, k cyclic at
/// most. One batch at a time. Confined to one thread; owns scratch memory that grows to the largest
/// batch.
class SparseAllReduce {
 public:
  /// `collectives` outlives this object, as does what the loop needs.
  SparseAllReduce(Collectives& collectives, int rank, int size, SparseOptions options = {});

  /// Begins a batch; every rank does with agreeing slots and the same plan. Their memory stays
  /// until is_done() or discard(). `phases`, which lives as long, is told what is done, or waited
  /// for, in turn; null: nobody.
  void start(std::vector<SparseSlot> slots, const SparsePlan& plan, SparseLook look = {},
             PhaseSink* phases = nullptr);
  /// For a rank that has no data: takes part in a batch that all ranks discard. Only count, rate
  /// and dtype of the slots are looked at.
  void start_nothing(std::vector<SparseSlot> slots, const SparsePlan& plan);
  /// Computes a piece, or starts what can be started; false: that is nothing before the collectives
  /// have advanced. Throws what the collectives throw; the residuals are then between two steps and
  /// the session has failed.
  bool advance();
  /// All communication of the batch has been started.
  bool is_posted() const noexcept { return task_ > posted_task_; }
  bool is_done() const noexcept { return task_ == tasks_.size(); }
  /// Before any rank's results were written: as if there had been no step, but that this rank goes
  /// on taking part in the communication. Residuals are as before but for one float32 rounding of
  /// m + beta g; the slots' memory is not touched any more.
  void discard();
  /// Hierarchical, `gradient` and `dtype` are those of the host's average.
  std::span<const SparseSlot> slots() const noexcept { return slots_; }
  /// By slot, for a SparseLook; empty where it is not wanted. Not of those that went dense, whose
  /// step is taken back.
  std::vector<SparseChoice> choices(const std::vector<bool>& is_wanted) const;

  /// start(), and moves on until it is done; returns the slots.
  std::vector<SparseSlot> run(std::vector<SparseSlot> slots, const SparsePlan& plan,
                              const WaitContext& context, SparseLook look = {});

 private:
  /// Consecutive chunks of a slot with one leader.
  struct Piece {
    std::size_t slot = 0;
    std::int64_t first = 0;  ///< chunk of the slot
    std::int64_t chunks = 0;
    std::int64_t count = 0;  ///< elements
    int leader = 0;
    std::int64_t begin = 0;  ///< its first chunk's place in offsets_, values_ and kept_
    std::int64_t wire = 0;   ///< where its offsets start in wire_
    bool is_swept = false;   ///< m has been updated, and could be taken back
    std::int64_t nonfinite_count = 0;
  };

  /// One part of as many as `of` of a slot.
  struct Segment {
    std::size_t slot = 0;
    std::int64_t at = 0;
    std::int64_t of = 1;
  };

  /// pieces_[first, end), in the order of their leaders.
  struct Round {
    std::size_t first = 0;
    std::size_t end = 0;
    std::int64_t wire = 0;            ///< where its offsets start in wire_
    std::vector<std::int64_t> bytes;  ///< of each rank's offsets, in rank order
    std::uint64_t sharing = 0;        ///< all-gather of the offsets
    std::uint64_t reduction = 0;      ///< all-reduce of the values
  };

  /// What is done in turn.
  enum class Action { average, select, share, gather, reduce, reduce_flags, decide, fill, finish };
  struct Task {
    Action action;
    std::size_t round = 0;
  };

  void lay_out(std::vector<SparseSlot> slots, const SparsePlan& plan);
  void cut_rounds();
  void add_round(std::span<const Segment> segments);
  void cut(const Segment& segment, int shard, int shards, int leader);
  void plan_tasks();
  void average();

  bool can_begin(const Task& task) const;
  void enter_phase(Action action, bool is_begun) const;
  bool step(const Task& task);
  template <class Wanted, class Body>
  bool step_pieces(const Task& task, const Wanted& is_wanted, const Body& body);
  void select(Piece& piece);
  void share(Round& round);
  void gather(Piece& piece);
  void reduce(Round& round);
  void reduce_flags();
  void decide();
  void fill(const Piece& piece);
  void take_back(Piece& piece) const;
  void reduce_dense(std::size_t slot);

  std::uint64_t note(std::uint64_t operation) { return last_operation_ = operation; }
  std::byte* value(std::int64_t index) { return values_.data() + index * size_of(plan_.values); }
  std::span<std::byte> wire_of(const Piece& piece);
  std::span<std::uint16_t> offsets_of(const Piece& piece);
  kernels::Selected taken_by(const Piece& piece);

  Collectives& collectives_;
  const int rank_;
  const int size_;
  const SparseOptions options_;
  SparsePlan plan_;
  SparseLook look_;
  PhaseSink* phases_ = nullptr;
  std::vector<SparseSlot> slots_;
  /// What the caller gave; the slots have it too, unless they have averages.
  struct Original {
    const std::byte* gradient = nullptr;
    DataType dtype = DataType::float32;  ///< of the result, too
  };
  std::vector<Original> originals_;
  /// Of the slots' gradients over the ranks of this host; empty where there is nothing to average.
  std::span<float> averages_;
  Scratch average_memory_;
  std::uint64_t averaging_ = 0;
  bool has_data_ = false;
  std::vector<Piece> pieces_;
  std::vector<Round> rounds_;
  std::vector<Task> tasks_;
  std::size_t task_ = 0;         ///< under way
  std::size_t posted_task_ = 0;  ///< the last that starts communication
  std::size_t next_piece_ = 0;   ///< of the task's round
  std::vector<std::byte> wire_;
  std::vector<std::uint16_t> offsets_;
  std::vector<std::byte> values_;
  /// The swept residual of the selected coordinates, for a tensor that has to go dense; of one that
  /// does not, the reduced values as float32.
  std::vector<float> kept_;
  /// Of each slot: 1 where a rank saw NaN or Inf.
  std::vector<std::uint8_t> flags_;
  std::uint64_t flag_reduction_ = 0;
  std::uint64_t last_operation_ = 0;
  std::int64_t result_bytes_ = 0;
  std::vector<Piece*> pieces_now_;
};

}  // namespace scalecom
