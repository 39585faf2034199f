// Included once for each SIMD target (see foreach_target.h of Highway), hence without a guard.

#include <hwy/cache_control.h>

#include <algorithm>
#include <atomic>

#include "kernels/cpu/sweep.hpp"
#include "kernels/cpu/vector_inl.hpp"
#include "kernels/float_bits.hpp"

HWY_BEFORE_NAMESPACE();
namespace scalecom::kernels::HWY_NAMESPACE {

using Floats = hn::ScalableTag<float>;
using Ints = hn::RebindToSigned<Floats>;
using Unsigned = hn::RebindToUnsigned<Floats>;
using FloatVector = hn::Vec<Floats>;
using IntVector = hn::Vec<Ints>;

/// Float32 lanes of the widest target that is compiled.
inline constexpr std::size_t kLanesMax = HWY_MAX_BYTES / sizeof(float);

/// Walks a tensor from its first vector to its last, updating m. next() returns the bits of |p|.
template <class Format>
class Sweeper {
 public:
  HWY_INLINE Sweeper(const SweepArguments& arguments)
      : residual_(arguments.residual),
        gradient_(arguments.gradient.data),
        prescale_(hn::Set(Floats(), arguments.gradient.prescale)),
        beta_(hn::Set(Floats(), arguments.beta)),
        ahead_(arguments.prefetch_distance),
        nonfinite_(hn::Zero(Ints())) {}

  HWY_INLINE IntVector next(std::size_t index) {
    const Floats df;
    hwy::Prefetch(residual_ + index + ahead_);
    hwy::Prefetch(gradient_ + (index + ahead_) * Format::kBytes);
    FloatVector m = hn::LoadU(df, residual_ + index);
    const FloatVector raw = Format::load(df, gradient_, index);
    // No instruction. Keeps the compiler from reading m twice, which costs a tenth of the speed.
    std::atomic_signal_fence(std::memory_order_acq_rel);
    const IntVector bits = step(raw, m);
    hn::StoreU(m, df, residual_ + index);
    return bits;
  }

  /// The last `count` elements, fewer than a vector; the bits of lanes beyond them are 0.
  HWY_INLINE IntVector last(std::size_t index, std::size_t count) {
    const Floats df;
    HWY_ALIGN float m_lanes[kLanesMax] = {};
    HWY_ALIGN float g_lanes[kLanesMax] = {};
    for (std::size_t i = 0; i < count; ++i) {
      m_lanes[i] = residual_[index + i];
      g_lanes[i] = Format::load(gradient_, index + i);
    }
    FloatVector m = hn::Load(df, m_lanes);
    const IntVector bits = step(hn::Load(df, g_lanes), m);
    hn::Store(m, df, m_lanes);
    std::copy_n(m_lanes, count, residual_ + index);
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

  float* const residual_;
  const std::byte* const gradient_;
  const FloatVector prescale_;
  const FloatVector beta_;
  const std::size_t ahead_;
  IntVector nonfinite_;
};

/// Takes the selected elements out of memory that was swept a moment before, several chunks at a
/// time. In float64, so that only the sweep's own rounding is left.
template <class Format, class Value>
class Taker {
 public:
  HWY_INLINE explicit Taker(const SweepArguments& arguments)
      : arguments_(arguments),
        beta_(hn::Set(Doubles(), double{arguments.beta})),
        rest_(hn::Set(Doubles(), 1.0 - double{arguments.beta})),
        prescale_(hn::Set(Floats(), arguments.gradient.prescale)),
        limit_(hn::Set(Floats(), arguments.selected.limit)) {}

  /// To be called when offsets[chunk] is there, for every chunk in turn.
  HWY_INLINE void add(std::size_t chunk) {
    if (chunk + 1 == taken_ + hn::Lanes(Floats())) take(chunk + 1);
  }
  /// After the last of `chunks`.
  HWY_INLINE void finish(std::size_t chunks) {
    if (taken_ < chunks) take(chunks);
  }

 private:
  using Floats = hn::Rebind<float, Doubles>;
  using FloatVector = hn::Vec<Floats>;

  HWY_INLINE void take(std::size_t end) {
    for (; taken_ + hn::Lanes(Floats()) <= end; taken_ += hn::Lanes(Floats())) {
      take_vector(hn::Lanes(Floats()), arguments_.selected.values, taken_,
                  arguments_.selected.kept + taken_);
    }
    if (taken_ == end) return;
    // Fewer than a vector, which must not write behind the end.
    std::byte values[kLanesMax * sizeof(float)];
    float kept[kLanesMax];
    const std::size_t count = end - taken_;
    take_vector(count, values, 0, kept);
    std::copy_n(values, count * Value::kBytes, arguments_.selected.values + taken_ * Value::kBytes);
    std::copy_n(kept, count, arguments_.selected.kept + taken_);
    taken_ = end;
  }

  /// values[place] and kept[0] are for the chunk taken_.
  HWY_INLINE void take_vector(std::size_t count, std::byte* values, std::size_t place,
                              float* kept) {
    const Floats df;
    const Doubles dd;
    HWY_ALIGN float m_lanes[kLanesMax] = {};
    HWY_ALIGN float g_lanes[kLanesMax] = {};
    for (std::size_t lane = 0; lane < count; ++lane) {
      m_lanes[lane] = arguments_.residual[index_of(lane)];
      g_lanes[lane] = Format::load(arguments_.gradient.data, index_of(lane));
    }
    const FloatVector swept = hn::Load(df, m_lanes);
    const DoubleVector m = hn::PromoteTo(dd, swept);
    const DoubleVector g = hn::PromoteTo(dd, hn::Mul(hn::Load(df, g_lanes), prescale_));
    const DoubleVector m_before = hn::Sub(m, hn::Mul(beta_, g));
    const FloatVector p = narrowed(hn::Add(m, hn::Mul(rest_, g)));
    // Not Min and Max, which lose NaN.
    const FloatVector least = hn::Neg(limit_);
    const FloatVector above = hn::IfThenElse(hn::Lt(p, least), least, p);
    Value::store(df, hn::IfThenElse(hn::Gt(above, limit_), limit_, above), values, place);
    hn::StoreU(swept, df, kept);
    const FloatVector sent = Value::load(df, values, place);
    const DoubleVector unsent = hn::Sub(hn::PromoteTo(dd, p), hn::PromoteTo(dd, sent));
    const DoubleVector after = hn::Add(hn::Mul(rest_, m_before), hn::Mul(beta_, unsent));
    hn::Store(narrowed(after), df, m_lanes);
    for (std::size_t lane = 0; lane < count; ++lane) {
      arguments_.residual[index_of(lane)] = m_lanes[lane];
    }
  }

  HWY_INLINE std::size_t index_of(std::size_t lane) const {
    return (taken_ + lane) * arguments_.chunk + arguments_.offsets[taken_ + lane];
  }

  const SweepArguments& arguments_;
  const DoubleVector beta_;
  const DoubleVector rest_;
  const FloatVector prescale_;
  const FloatVector limit_;
  std::size_t taken_ = 0;  ///< chunks
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

/// Chunks of at least one vector. The vectors follow each other without a gap; one that holds the
/// end of a chunk and the beginning of the next is looked at twice.
template <class Format, class Value>
std::int64_t select_long_chunks(const SweepArguments& arguments) {
  const Ints di;
  const std::size_t lanes = hn::Lanes(di);
  const auto count = static_cast<std::size_t>(arguments.gradient.count);
  Sweeper<Format> sweeper(arguments);
  Taker<Format, Value> taker(arguments);
  LaneMaxima maxima;
  std::size_t i = 0;
  IntVector shared = hn::Zero(di);  // the vector in which the previous chunk ended
  std::size_t j = 0;
  for (std::size_t begin = 0; begin < count; begin += arguments.chunk, ++j) {
    const std::size_t end = std::min(begin + arguments.chunk, count);
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
    arguments.offsets[j] = maxima.winner();
    taker.add(j);
  }
  taker.finish(j);
  return sweeper.nonfinite_count();
}

/// offsets[j] <- place of the largest of bits[j chunk] to bits[j chunk + chunk - 1], for one chunk
/// a lane.
HWY_INLINE void select_by_lanes(const std::int32_t* bits, std::size_t chunk,
                                std::uint16_t* offsets) {
  const Ints di;
  const hn::Rebind<std::uint16_t, Ints> d16;
  const IntVector first = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<std::int32_t>(chunk)));
  IntVector best = hn::GatherIndex(di, bits, first);
  IntVector best_place = hn::Zero(di);
  for (std::size_t place = 1; place < chunk; ++place) {
    const IntVector candidate = hn::GatherIndex(di, bits + place, first);
    const auto is_larger = hn::Gt(candidate, best);
    best = hn::Max(candidate, best);
    best_place =
        hn::IfThenElse(is_larger, hn::Set(di, static_cast<std::int32_t>(place)), best_place);
  }
  hn::StoreU(hn::DemoteTo(d16, best_place), d16, offsets);
}

/// Chunks shorter than a vector: sweeps a block into scratch memory that stays in the first-level
/// cache, and goes through it with one chunk a lane.
template <class Format, class Value>
std::int64_t select_short_chunks(const SweepArguments& arguments) {
  const Ints di;
  const std::size_t lanes = hn::Lanes(di);
  const std::size_t chunk = arguments.chunk;
  const auto count = static_cast<std::size_t>(arguments.gradient.count);
  const std::size_t group = lanes * chunk;
  HWY_ALIGN std::int32_t bits[kLanesMax * kLanesMax];
  std::uint16_t places[kLanesMax];
  Sweeper<Format> sweeper(arguments);
  Taker<Format, Value> taker(arguments);
  std::size_t j = 0;
  for (std::size_t begin = 0; begin < count; begin += group) {
    const std::size_t size = std::min(group, count - begin);
    std::size_t i = 0;
    for (; i + lanes <= size; i += lanes) hn::Store(sweeper.next(begin + i), di, bits + i);
    if (i < size) hn::Store(sweeper.last(begin + i, size - i), di, bits + i);
    std::fill(bits + size, bits + group, -1);
    select_by_lanes(bits, chunk, places);
    for (std::size_t lane = 0; lane * chunk < size; ++lane, ++j) {
      arguments.offsets[j] = places[lane];
      taker.add(j);
    }
  }
  taker.finish(j);
  return sweeper.nonfinite_count();
}

template <class Format, class Value>
std::int64_t select_all(const SweepArguments& arguments) {
  return arguments.chunk < hn::Lanes(Ints()) ? select_short_chunks<Format, Value>(arguments)
                                             : select_long_chunks<Format, Value>(arguments);
}

template <class Format, class Value>
std::int64_t gather_all(const SweepArguments& arguments) {
  const std::size_t lanes = hn::Lanes(Floats());
  const auto count = static_cast<std::size_t>(arguments.gradient.count);
  Sweeper<Format> sweeper(arguments);
  Taker<Format, Value> taker(arguments);
  std::size_t i = 0;
  std::size_t j = 0;
  for (std::size_t begin = 0; begin < count; begin += arguments.chunk, ++j) {
    const std::size_t end = std::min(begin + arguments.chunk, count);
    for (; i < end && i + lanes <= count; i += lanes) sweeper.next(i);
    if (i < end) {
      sweeper.last(i, count - i);
      i = count;
    }
    taker.add(j);
  }
  taker.finish(j);
  return sweeper.nonfinite_count();
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
  float* const residual = arguments.residual;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hwy::Prefetch(residual + i + arguments.prefetch_distance);
    hwy::Prefetch(arguments.gradient.data + (i + arguments.prefetch_distance) * Format::kBytes);
    const auto m = hn::LoadU(df, residual + i);
    const auto raw = Format::load(df, arguments.gradient.data, i);
    std::atomic_signal_fence(std::memory_order_acq_rel);  // as in Sweeper
    hn::StoreU(undone(m, hn::Mul(raw, prescale), beta), df, residual + i);
  }
  for (; i < count; ++i) {
    const auto g = hn::Mul(hn::Set(df, Format::load(arguments.gradient.data, i)), prescale);
    residual[i] = hn::GetLane(undone(hn::Set(df, residual[i]), g, beta));
  }
}

/// Calls body with the formats of gradient and values.
template <class Body>
HWY_INLINE std::int64_t with_formats(const SweepArguments& arguments, const Body& body) {
  const auto with_values = [&](auto format) {
    switch (arguments.selected.dtype) {
      case DataType::float16: return body(format, Float16Vectors());
      case DataType::bfloat16: return body(format, Bfloat16Vectors());
      default: return body(format, Float32Vectors());
    }
  };
  switch (arguments.gradient.dtype) {
    case DataType::float16: return with_values(Float16Vectors());
    case DataType::bfloat16: return with_values(Bfloat16Vectors());
    default: return with_values(Float32Vectors());
  }
}

std::int64_t run_select(const SweepArguments& arguments) {
  return with_formats(arguments, [&](auto format, auto value) {
    return select_all<decltype(format), decltype(value)>(arguments);
  });
}

std::int64_t run_gather(const SweepArguments& arguments) {
  return with_formats(arguments, [&](auto format, auto value) {
    return gather_all<decltype(format), decltype(value)>(arguments);
  });
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
