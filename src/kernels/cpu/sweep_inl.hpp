// Included once for each SIMD target (see foreach_target.h of Highway), hence without a guard.

#include <hwy/cache_control.h>

#include <algorithm>
#include <atomic>

#include "kernels/cpu/sweep.hpp"
#include "kernels/cpu/vector_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace scalecom::kernels::HWY_NAMESPACE {

using Floats = hn::ScalableTag<float>;
using Ints = hn::RebindToSigned<Floats>;
using Unsigned = hn::RebindToUnsigned<Floats>;
using FloatVector = hn::Vec<Floats>;
using IntVector = hn::Vec<Ints>;

inline constexpr std::int32_t kAbsoluteBits = 0x7FFFFFFF;
inline constexpr std::int32_t kLargestFinite = 0x7F7FFFFF;
/// Elements between the one in work and the one announced: 4 KiB of float32.
inline constexpr std::size_t kPrefetchDistance = 1024;
/// Float32 lanes of the widest target that is compiled.
inline constexpr std::size_t kLanesMax = HWY_MAX_BYTES / sizeof(float);

/// Walks a tensor from its first vector to its last, updating m. next() returns the bits of |p|:
/// compared as integers they order as the values do, with Inf and NaN on top.
template <class Format>
class Sweeper {
 public:
  HWY_INLINE Sweeper(const SweepArguments& arguments)
      : memory_(arguments.memory),
        gradient_(arguments.gradient.data),
        prescale_(hn::Set(Floats(), arguments.gradient.prescale)),
        beta_(hn::Set(Floats(), arguments.beta)),
        nonfinite_(hn::Zero(Ints())) {}

  HWY_INLINE IntVector next(std::size_t index) {
    const Floats df;
    hwy::Prefetch(memory_ + index + kPrefetchDistance);
    hwy::Prefetch(gradient_ + (index + kPrefetchDistance) * Format::kBytes);
    FloatVector m = hn::LoadU(df, memory_ + index);
    const FloatVector raw = Format::load(df, gradient_, index);
    // No instruction. Keeps the compiler from reading m twice, which costs a tenth of the speed.
    std::atomic_signal_fence(std::memory_order_acq_rel);
    const IntVector bits = step(raw, m);
    hn::StoreU(m, df, memory_ + index);
    return bits;
  }

  /// The last `count` elements, fewer than a vector; the bits of lanes beyond them are 0.
  HWY_INLINE IntVector last(std::size_t index, std::size_t count) {
    const Floats df;
    HWY_ALIGN float m_lanes[kLanesMax] = {};
    HWY_ALIGN float g_lanes[kLanesMax] = {};
    for (std::size_t i = 0; i < count; ++i) {
      m_lanes[i] = memory_[index + i];
      g_lanes[i] = Format::load(gradient_, index + i);
    }
    FloatVector m = hn::Load(df, m_lanes);
    const IntVector bits = step(hn::Load(df, g_lanes), m);
    hn::Store(m, df, m_lanes);
    std::copy_n(m_lanes, count, memory_ + index);
    return bits;
  }

  std::int64_t nonfinite_count() const {
    HWY_ALIGN std::int32_t lanes[kLanesMax];
    hn::Store(nonfinite_, Ints(), lanes);
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < hn::Lanes(Ints()); ++i) sum += lanes[i];
    return sum;
  }

 private:
  HWY_INLINE IntVector step(FloatVector raw, FloatVector& m) {
    const Floats df;
    const Ints di;
    const FloatVector g = hn::Mul(raw, prescale_);
    const IntVector bits = hn::And(hn::BitCast(di, hn::Add(m, g)), hn::Set(di, kAbsoluteBits));
    const auto is_nonfinite = hn::Gt(bits, hn::Set(di, kLargestFinite));
    nonfinite_ = hn::Sub(nonfinite_, hn::VecFromMask(di, is_nonfinite));
    // Adding zero instead of choosing m: compilers turn the choice into a masked load from m's
    // place, which costs a third of the speed.
    m = hn::Add(m, hn::IfThenZeroElse(hn::RebindMask(df, is_nonfinite), hn::Mul(beta_, g)));
    return bits;
  }

  float* const memory_;
  const std::byte* const gradient_;
  const FloatVector prescale_;
  const FloatVector beta_;
  IntVector nonfinite_;
};

/// The largest value seen in each lane and its place in the chunk.
class LaneMaxima {
 public:
  HWY_INLINE LaneMaxima() : best_(hn::Zero(Ints())), best_place_(best_), place_(best_) {}

  /// `place` of lane 0; negative where a chunk starts inside the vector.
  HWY_INLINE void start(IntVector bits, std::int32_t place) {
    best_ = bits;
    best_place_ = place_ = hn::Iota(Ints(), place);
  }

  HWY_INLINE void add(IntVector bits) {
    const Ints di;
    place_ = hn::Add(place_, hn::Set(di, static_cast<std::int32_t>(hn::Lanes(di))));
    const auto is_larger = hn::Gt(bits, best_);
    best_ = hn::Max(bits, best_);
    best_place_ = hn::IfThenElse(is_larger, place_, best_place_);
  }

  /// The lowest place that holds the maximum.
  HWY_INLINE std::uint16_t winner() const {
    const Ints di;
    HWY_ALIGN std::int32_t places[kLanesMax];
    hn::Store(best_place_, di, places);
    const auto is_best = hn::Eq(best_, hn::MaxOfLanes(di, best_));
    if (hn::CountTrue(di, is_best) == 1) {
      return static_cast<std::uint16_t>(places[hn::FindFirstTrue(di, is_best)]);
    }
    // Places before the chunk are negative, which makes them the largest unsigned numbers.
    const Unsigned du;
    const auto candidates = hn::IfThenElse(is_best, best_place_, hn::Set(di, -1));
    return static_cast<std::uint16_t>(hn::GetLane(hn::MinOfLanes(du, hn::BitCast(du, candidates))));
  }

 private:
  IntVector best_;
  IntVector best_place_;
  IntVector place_;
};

template <class Format>
std::int64_t sweep_all(const SweepArguments& arguments) {
  const std::size_t lanes = hn::Lanes(Floats());
  const auto count = static_cast<std::size_t>(arguments.gradient.count);
  Sweeper<Format> sweeper(arguments);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) sweeper.next(i);
  if (i < count) sweeper.last(i, count - i);
  return sweeper.nonfinite_count();
}

/// Chunks of at least one vector. The vectors follow each other without a gap; one that holds the
/// end of a chunk and the beginning of the next is looked at twice.
template <class Format>
std::int64_t select_long_chunks(const SweepArguments& arguments, std::size_t chunk,
                                std::uint16_t* offsets) {
  const Ints di;
  const std::size_t lanes = hn::Lanes(di);
  const auto count = static_cast<std::size_t>(arguments.gradient.count);
  Sweeper<Format> sweeper(arguments);
  LaneMaxima maxima;
  std::size_t i = 0;
  IntVector shared = hn::Zero(di);  // the vector in which the previous chunk ended
  for (std::size_t begin = 0; begin < count; begin += chunk) {
    const std::size_t end = std::min(begin + chunk, count);
    if (i > begin) {  // `shared` holds the first i - begin elements, in its highest lanes
      const std::size_t before = lanes - (i - begin);
      maxima.start(hn::IfThenElse(hn::FirstN(di, before), hn::Set(di, -1), shared),
                   -static_cast<std::int32_t>(before));
    } else {  // the place of lane 0 is known after the first add()
      maxima.start(hn::Set(di, -1), -static_cast<std::int32_t>(lanes));
    }
    if (i < end) {
      for (; i + lanes <= end; i += lanes) maxima.add(sweeper.next(i));
      if (i < end) {
        shared = i + lanes <= count ? sweeper.next(i) : sweeper.last(i, count - i);
        maxima.add(hn::IfThenElse(hn::FirstN(di, end - i), shared, hn::Set(di, -1)));
        i += lanes;
      }
    } else {  // a short last chunk that ends inside `shared`
      SCALECOM_ASSERT(end == count, "a chunk shorter than a vector before the last");
    }
    *offsets++ = maxima.winner();
  }
  return sweeper.nonfinite_count();
}

/// Chunks shorter than a vector: sweeps a block into scratch memory, then looks at each chunk.
template <class Format>
std::int64_t select_short_chunks(const SweepArguments& arguments, std::size_t chunk,
                                 std::uint16_t* offsets) {
  constexpr std::size_t kBlockMax = 1024;
  HWY_ALIGN std::int32_t bits[kBlockMax + kLanesMax];
  const Ints di;
  const std::size_t lanes = hn::Lanes(di);
  const auto count = static_cast<std::size_t>(arguments.gradient.count);
  const std::size_t block = kBlockMax / chunk * chunk;
  Sweeper<Format> sweeper(arguments);
  for (std::size_t begin = 0; begin < count; begin += block) {
    const std::size_t size = std::min(block, count - begin);
    std::size_t i = 0;
    for (; i + lanes <= size; i += lanes) hn::Store(sweeper.next(begin + i), di, bits + i);
    if (i < size) hn::Store(sweeper.last(begin + i, size - i), di, bits + i);
    for (std::size_t first = 0; first < size; first += chunk) {
      const std::size_t length = std::min(chunk, size - first);
      std::size_t best = 0;
      for (std::size_t place = 1; place < length; ++place) {
        best = bits[first + place] > bits[first + best] ? place : best;
      }
      *offsets++ = static_cast<std::uint16_t>(best);
    }
  }
  return sweeper.nonfinite_count();
}

template <class Format>
std::int64_t select_all(const SweepArguments& arguments, std::size_t chunk,
                        std::uint16_t* offsets) {
  return chunk < hn::Lanes(Floats()) ? select_short_chunks<Format>(arguments, chunk, offsets)
                                     : select_long_chunks<Format>(arguments, chunk, offsets);
}

/// m - beta g, or m where the sweep left it alone.
HWY_INLINE FloatVector undone(FloatVector m, FloatVector g, FloatVector beta) {
  const Floats df;
  const Ints di;
  const FloatVector change = hn::Mul(beta, g);
  const FloatVector p = hn::Add(hn::Sub(m, change), g);
  const IntVector bits = hn::And(hn::BitCast(di, p), hn::Set(di, kAbsoluteBits));
  const auto is_nonfinite = hn::Gt(bits, hn::Set(di, kLargestFinite));
  return hn::Sub(m, hn::IfThenZeroElse(hn::RebindMask(df, is_nonfinite), change));
}

template <class Format>
void undo_all(const SweepArguments& arguments) {
  const Floats df;
  const std::size_t lanes = hn::Lanes(df);
  const auto count = static_cast<std::size_t>(arguments.gradient.count);
  const auto prescale = hn::Set(df, arguments.gradient.prescale);
  const auto beta = hn::Set(df, arguments.beta);
  float* const memory = arguments.memory;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hwy::Prefetch(memory + i + kPrefetchDistance);
    hwy::Prefetch(arguments.gradient.data + (i + kPrefetchDistance) * Format::kBytes);
    const auto m = hn::LoadU(df, memory + i);
    const auto raw = Format::load(df, arguments.gradient.data, i);
    std::atomic_signal_fence(std::memory_order_acq_rel);  // as in Sweeper
    hn::StoreU(undone(m, hn::Mul(raw, prescale), beta), df, memory + i);
  }
  for (; i < count; ++i) {
    const auto g = hn::Mul(hn::Set(df, Format::load(arguments.gradient.data, i)), prescale);
    memory[i] = hn::GetLane(undone(hn::Set(df, memory[i]), g, beta));
  }
}

std::int64_t run_sweep(const SweepArguments& arguments) {
  switch (arguments.gradient.dtype) {
    case DataType::float16: return sweep_all<Float16Vectors>(arguments);
    case DataType::bfloat16: return sweep_all<Bfloat16Vectors>(arguments);
    default: return sweep_all<Float32Vectors>(arguments);
  }
}

std::int64_t run_select(const SweepArguments& arguments, std::size_t chunk,
                        std::uint16_t* offsets) {
  switch (arguments.gradient.dtype) {
    case DataType::float16: return select_all<Float16Vectors>(arguments, chunk, offsets);
    case DataType::bfloat16: return select_all<Bfloat16Vectors>(arguments, chunk, offsets);
    default: return select_all<Float32Vectors>(arguments, chunk, offsets);
  }
}

void run_undo(const SweepArguments& arguments) {
  switch (arguments.gradient.dtype) {
    case DataType::float16: return undo_all<Float16Vectors>(arguments);
    case DataType::bfloat16: return undo_all<Bfloat16Vectors>(arguments);
    default: return undo_all<Float32Vectors>(arguments);
  }
}

}  // namespace scalecom::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
