#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/cuda/element.hpp"
#include "kernels/cuda/formats.cuh"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/step_rows.hpp"

// One ScaleCom step over a table of tensors. A team walks its units; each lane keeps several
// vectors in flight, its best element in registers, and the lane that owns a chunk's winner takes
// it. Nothing waits for another team.
namespace scalecom::kernels::cuda {
namespace {

constexpr int kBlockLanes = 1 << kBlockLanesLog2;
constexpr int kWarpLanes = 1 << kWarpLanesLog2;
/// Warps of a block that does not work as a team.
constexpr int kWarpsABlock = 2;
/// Warps of a sweep that a multiprocessor shall hold: registers are given out for that. Fewer do
/// not hide the memory's latency; for more the compiler would have to keep registers in memory.
constexpr int kWarpsWanted = 28;
/// What take_back() is launched with: about half of a large GPU's threads at most.
constexpr int kTakeBackLanes = 256;
constexpr std::int64_t kTakeBackBlocks = 512;

/// The best of the 2^lanes_log2 neighbouring lanes' candidates, for each of them.
__device__ Candidate best_of_lanes(Candidate best, std::int32_t lanes_log2) {
  for (int distance = (1 << lanes_log2) / 2; distance > 0; distance /= 2) {
    Candidate other;
    other.bits = __shfl_xor_sync(kWholeWarp, best.bits, distance);
    other.place = __shfl_xor_sync(kWholeWarp, best.place, distance);
    if (best.is_beaten_by(other)) best = other;
  }
  return best;
}

struct WarpTeam {
  static constexpr std::int32_t kLanesLog2 = kWarpLanesLog2;
  static constexpr int kTeams = kWarpsABlock;
  static __device__ int index() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
  static __device__ Candidate best_of(Candidate own, std::int32_t lanes_log2) {
    return best_of_lanes(own, lanes_log2);
  }
};

/// For chunks that fill the block: lanes_log2 is kBlockLanesLog2. A block has one.
struct BlockTeam {
  static constexpr std::int32_t kLanesLog2 = kBlockLanesLog2;
  static constexpr int kTeams = 1;
  static __device__ int index() { return 0; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x); }
  static __device__ Candidate best_of(Candidate own, std::int32_t) {
    constexpr int kWarps = kBlockLanes / kWarpLanes;
    __shared__ std::int32_t bits[kWarps];
    __shared__ std::int32_t places[kWarps];
    const Candidate of_warp = best_of_lanes(own, kWarpLanesLog2);
    if (threadIdx.x % kWarpLanes == 0) {
      bits[threadIdx.x / kWarpLanes] = of_warp.bits;
      places[threadIdx.x / kWarpLanes] = of_warp.place;
    }
    __syncthreads();
    Candidate best{bits[0], places[0]};
    for (int warp = 1; warp < kWarps; ++warp) {
      const Candidate other{bits[warp], places[warp]};
      if (best.is_beaten_by(other)) best = other;
    }
    return best;
  }
};

template <class Team>
constexpr int kThreadsOf = Team::kTeams << Team::kLanesLog2;

/// Four elements, `vector` vectors behind `memory`.
template <class Format, bool kIsAligned>
__device__ typename Format::Vector load(const typename Format::Element* memory,
                                        std::int32_t vector) {
  if constexpr (kIsAligned) {
    return reinterpret_cast<const typename Format::Vector*>(memory)[vector];
  } else {
    const auto* const first = memory + vector * kVectorElements;
    return Format::pack(first[0], first[1], first[2], first[3]);
  }
}

template <class Element>
__device__ std::int32_t shift_of(const Element* memory) {
  return cuda::shift_of(reinterpret_cast<std::uint64_t>(memory), sizeof(Element));
}

/// Adds up the counts of a warp's lanes: nearly always nothing.
__device__ void add_nonfinite(unsigned long long* total, std::int32_t count) {
  if (!__any_sync(kWholeWarp, count != 0)) return;
  for (int distance = kWarpLanes / 2; distance > 0; distance /= 2) {
    count += __shfl_xor_sync(kWholeWarp, count, distance);
  }
  if (threadIdx.x % kWarpLanes == 0) atomicAdd(total, static_cast<unsigned long long>(count));
}

/// Takes the element at `place` of a chunk that was swept: stores what is sent and kept, and its
/// residual.
template <class Format>
__device__ void take(const StepRow& row, const LanePart& part, std::int32_t place) {
  const std::int64_t index = part.begin + place;
  const float residual = global(row.residual)[index];
  const auto* const gradient = global(static_cast<const typename Format::Element*>(row.gradient));
  const float g = row.prescale * Format::widen(gradient[index]);
  with_format(row.value_format, [&](auto format) {
    using ValueFormat = decltype(format);
    const auto round = [](float value) { return ValueFormat::widen(ValueFormat::narrow(value)); };
    const TakenElement taken = take_element(residual, g, row.beta, row.limit, round);
    global(static_cast<typename ValueFormat::Element*>(row.values))[part.chunk] =
        ValueFormat::narrow(taken.sent);
    global(row.residual)[index] = taken.residual;
  });
  global(row.kept)[part.chunk] = residual;
}

/// A lane's way through its part of a chunk, which 2^kLanesLog2 lanes share: known to the compiler,
/// so that the addresses of all vectors are one register and constants.
template <class Format, std::int32_t kLanesLog2>
struct LaneSweep {
  using Element = typename Format::Element;
  static constexpr std::int32_t kLanes = 1 << kLanesLog2;

  float prescale;
  float beta;
  float* residual;  ///< of the chunk's first element, like `gradient`
  const Element* gradient;
  std::int32_t nonfinite = 0;
  Candidate best;

  /// `kIsAligned`: the gradient's vectors are the residual's.
  template <bool kIsAligned>
  __device__ void sweep_vectors(const Run& run, std::int32_t first) {
    for (; first < run.vectors; first += kLanes * kVectorsInFlight) {
      float4* const m_at = reinterpret_cast<float4*>(residual + run.head) + first;
      const Element* const g_at = gradient + run.head + first * kVectorElements;
      const std::int32_t left = run.vectors - first;
      float4 m[kVectorsInFlight];
      typename Format::Vector raw[kVectorsInFlight];
#pragma unroll
      for (int i = 0; i < kVectorsInFlight; ++i) {
        if (i * kLanes >= left) break;
        m[i] = m_at[i * kLanes];
        raw[i] = load<Format, kIsAligned>(g_at, i * kLanes);
      }
#pragma unroll
      for (int i = 0; i < kVectorsInFlight; ++i) {
        if (i * kLanes >= left) break;
        const Quad swept = sweep_vector(Float32::widen_all(m[i]), Format::widen_all(raw[i]),
                                        run.vector_place(first + i * kLanes));
        m_at[i * kLanes] = Float32::pack(swept.at[0], swept.at[1], swept.at[2], swept.at[3]);
      }
    }
  }

  __device__ void sweep_edges(const Run& run, std::int32_t first) {
#pragma unroll 1
    for (std::int32_t edge = first; edge < run.edges; edge += kLanes) {
      const std::int32_t place = run.edge_place(edge);
      const float g = prescale * Format::widen(gradient[place]);
      const SweptElement swept = sweep_element(residual[place], g, beta);
      residual[place] = swept.residual;
      nonfinite += swept.bits > kLargestFinite;
      const Candidate candidate{swept.bits, place};
      if (best.is_beaten_by(candidate)) best = candidate;
    }
  }

 private:
  /// Vectors come in the order of their places, so an equal one does not beat the best.
  __device__ Quad sweep_vector(const Quad& m, Quad g, std::int32_t place) {
#pragma unroll
    for (int i = 0; i < kVectorElements; ++i) g.at[i] *= prescale;
    const SweptQuad swept = sweep_quad(m, g, beta);
    nonfinite += swept.nonfinite;
    if (swept.bits > best.bits) best = {swept.bits, place + swept.largest};
    return swept.residual;
  }
};

template <class Team, Pass kPass, class Format, std::int32_t kLanesLog2>
__device__ void sweep_unit(const StepRow& row, std::int32_t unit) {
  const LanePart part =
      lane_part(unit, Team::lane(), Team::kLanesLog2, kLanesLog2, row.chunk, row.count);
  LaneSweep<Format, kLanesLog2> sweep{
      row.prescale, row.beta, global(row.residual) + part.begin,
      global(static_cast<const typename Format::Element*>(row.gradient)) + part.begin};
  const Run run(part.length, shift_of(sweep.residual));
  if (shift_of(sweep.gradient + run.head) == 0) {
    sweep.template sweep_vectors<true>(run, part.member);
  } else {
    sweep.template sweep_vectors<false>(run, part.member);
  }
  sweep.sweep_edges(run, part.member);
  add_nonfinite(global(row.nonfinite), sweep.nonfinite);
  std::int32_t selected = 0;
  if (kPass == Pass::select) {
    selected = Team::best_of(sweep.best, kLanesLog2).place;
  } else if (part.length > 0) {
    // Of an all-gather that was aborted it may be anything: never beyond the chunk.
    selected = min(static_cast<std::int32_t>(global(row.offsets)[part.chunk]), part.length - 1);
  }
  // The lane that swept the element: it need not wait for another's store.
  if (part.length > 0 && part.member == run.member_at(selected, kLanesLog2)) {
    if (kPass == Pass::select) {
      global(row.offsets)[part.chunk] = static_cast<std::uint16_t>(selected);
    }
    take<Format>(row, part, selected);
  }
}

/// kFilledAUnit elements of a tensor, and the chunks that they lie in, counted from the first.
struct Stretch {
  std::int64_t begin;
  std::int64_t first_chunk;
  std::int32_t length;
  std::int32_t chunk_length;
  std::int32_t skipped;  ///< elements of the first chunk that lie before
  float inverse;

  __device__ Stretch(const StepRow& row, std::int32_t unit) {
    begin = std::int64_t{unit} * kFilledAUnit;
    length = static_cast<std::int32_t>(min(std::int64_t{kFilledAUnit}, row.count - begin));
    chunk_length = row.chunk;
    const ChunkPlace first = chunk_place(begin, chunk_length, row.chunk_inverse);
    first_chunk = first.chunk;
    skipped = first.place;
    inverse = static_cast<float>(row.chunk_inverse);
  }
  __device__ std::int32_t chunk_of(std::int32_t place) const {
    return chunk_at(skipped + place, inverse);
  }
  /// Place in its chunk.
  __device__ std::int32_t place_in(std::int32_t chunk, std::int32_t place) const {
    return skipped + place - chunk * chunk_length;
  }
};

/// NaN counts.
__device__ bool is_set(const float* mark) { return !(*global(mark) == 0.0f); }

/// Zeros, and the reduced values on the selected elements.
template <class Format>
__device__ void fill_unit(const StepRow& row, std::int32_t unit) {
  using Element = typename Format::Element;
  using Vector = typename Format::Vector;
  const Stretch stretch(row, unit);
  const std::int32_t chunk = stretch.chunk_length;
  const auto* const offsets = global(row.offsets) + stretch.first_chunk;
  const float* const reduced = global(row.reduced) + stretch.first_chunk;
  Element* const result = global(static_cast<Element*>(row.result)) + stretch.begin;
  const Run run(stretch.length, shift_of(result));
  const auto filled = [&](std::int32_t place) {
    const std::int32_t own = stretch.chunk_of(place);
    return stretch.place_in(own, place) == offsets[own] ? Format::narrow(reduced[own]) : Element{};
  };
#pragma unroll 4
  for (std::int32_t vector = WarpTeam::lane(); vector < run.vectors; vector += kWarpLanes) {
    const std::int32_t place = run.vector_place(vector);
    const std::int32_t own = stretch.chunk_of(place);
    const std::int32_t in_chunk = stretch.place_in(own, place);
    Vector elements{};
    if (in_chunk + kVectorElements <= chunk) {
      const std::int32_t distance = offsets[own] - in_chunk;
      if (distance >= 0 && distance < kVectorElements) {
        elements = Format::at(distance, Format::narrow(reduced[own]));
      }
    } else {
      elements =
          Format::pack(filled(place), filled(place + 1), filled(place + 2), filled(place + 3));
    }
    *reinterpret_cast<Vector*>(result + place) = elements;
  }
  for (std::int32_t edge = WarpTeam::lane(); edge < run.edges; edge += kWarpLanes) {
    const std::int32_t place = run.edge_place(edge);
    result[place] = filled(place);
  }
}

/// The selected elements as they were kept, and from all of them the sweep's change.
template <class Format, int kInFlight>
__device__ void take_back_unit(const StepRow& row, std::int32_t unit) {
  const Stretch stretch(row, unit);
  const auto* const offsets = global(row.offsets) + stretch.first_chunk;
  const float* const kept = global(row.kept) + stretch.first_chunk;
  float* const residual = global(row.residual) + stretch.begin;
  const auto* const gradient =
      global(static_cast<const typename Format::Element*>(row.gradient)) + stretch.begin;
#pragma unroll kInFlight
  for (std::int32_t place = WarpTeam::lane(); place < stretch.length; place += kWarpLanes) {
    const std::int32_t own = stretch.chunk_of(place);
    const bool is_selected = stretch.place_in(own, place) == offsets[own];
    const float g = row.prescale * Format::widen(gradient[place]);
    residual[place] = undo_element(is_selected ? kept[own] : residual[place], g, row.beta);
  }
}

/// fill_unit() of a marked tensor, whose step nobody has taken back if it comes with its residual.
template <class Format>
__device__ void void_unit(const StepRow& row, std::int32_t unit) {
  if (row.residual != nullptr) take_back_unit<Format, 1>(row, unit);
  // The gradient's place, perhaps: each lane has read there what it overwrites.
  const Stretch stretch(row, unit);
  auto* const result = global(static_cast<typename Format::Element*>(row.result)) + stretch.begin;
#pragma unroll 1
  for (std::int32_t place = WarpTeam::lane(); place < stretch.length; place += kWarpLanes) {
    result[place] = Format::narrow(__int_as_float(0x7FC00000));
  }
}

template <std::int32_t kValue>
struct LanesLog2 {
  static constexpr std::int32_t kLog2 = kValue;
};

/// Calls body with the number of lanes of a chunk. A block works on long chunks only, with all of
/// its lanes.
template <class Team, class Body>
__device__ void with_lanes(std::int32_t lanes_log2, const Body& body) {
  if constexpr (Team::kLanesLog2 == kBlockLanesLog2) {
    static_assert(lanes_log2_for(kWarpChunkMax + 1, kBlockLanesLog2) == kBlockLanesLog2);
    body(LanesLog2<kBlockLanesLog2>());
  } else {
    static_assert(kWarpLanesLog2 == 5, "a case for each");
    switch (lanes_log2) {
      case 0: return body(LanesLog2<0>());
      case 1: return body(LanesLog2<1>());
      case 2: return body(LanesLog2<2>());
      case 3: return body(LanesLog2<3>());
      case 4: return body(LanesLog2<4>());
      default: return body(LanesLog2<5>());
    }
  }
}

/// Calls body(row, unit, format) for the team's unit.
template <class Team, class Body>
__device__ void with_unit(const RowRange& range, const Body& body) {
  __shared__ StepRow rows[kThreadsOf<Team> / kWarpLanes];
  prefetch_table(range.rows, range.index);
  const auto number = static_cast<std::int32_t>(blockIdx.x) * Team::kTeams + Team::index();
  if (number >= range.index.units) return;  // the whole team
  const Found found = find_row(range.index, launched_unit(range.index, number));
  const StepRow& row = load_row(rows[WarpTeam::index()], range.rows + found.row);
  with_format(row.format, [&](auto format) { body(row, found.unit, format); });
}

template <class Team>
constexpr int kBlocksWantedOf = kWarpsWanted* kWarpLanes / kThreadsOf<Team>;

template <class Team, Pass kPass>
__global__ __launch_bounds__(kThreadsOf<Team>, kBlocksWantedOf<Team>) void run_pass(
    const __grid_constant__ RowRange range) {
  with_unit<Team>(range, [](const StepRow& row, std::int32_t unit, auto format) {
    with_lanes<Team>(row.lanes_log2, [&](auto lanes) {
      sweep_unit<Team, kPass, decltype(format), decltype(lanes)::kLog2>(row, unit);
    });
  });
}

__global__ __launch_bounds__(kThreadsOf<WarpTeam>) void run_fill(
    const __grid_constant__ RowRange range) {
  with_unit<WarpTeam>(range, [](const StepRow& row, std::int32_t unit, auto format) {
    if (row.mark != nullptr && is_set(row.mark)) {
      void_unit<decltype(format)>(row, unit);
    } else {
      fill_unit<decltype(format)>(row, unit);
    }
  });
}

__device__ bool is_taken_back(const StepRow& row) {
  return row.mark == nullptr || is_set(row.mark);
}

/// Nearly always no tensor is marked. So there are few blocks, whatever the tensors' sizes, and
/// each looks at all marks first.
__global__ __launch_bounds__(kTakeBackLanes) void run_take_back(
    const __grid_constant__ RowRange range) {
  constexpr std::int32_t kWarps = kTakeBackLanes / kWarpLanes;
  __shared__ StepRow rows[kWarps];
  bool is_any = false;
  for (auto i = static_cast<std::int32_t>(threadIdx.x); i < range.index.sizes[0];
       i += kTakeBackLanes) {
    is_any |= is_taken_back(range.rows[i]);
  }
  if (__syncthreads_or(is_any) == 0) return;
  const auto step = static_cast<std::int32_t>(gridDim.x) * kWarps;
  const auto warp = static_cast<std::int32_t>(threadIdx.x) / kWarpLanes;
  const auto first = static_cast<std::int32_t>(blockIdx.x) * kWarps + warp;
  for (std::int64_t unit = first; unit < range.index.units; unit += step) {
    const Found found = find_row(range.index, static_cast<std::int32_t>(unit));
    __syncwarp();  // All lanes have read the row before.
    const StepRow& row = load_row(rows[warp], range.rows + found.row);
    if (!is_taken_back(row)) continue;
    with_format(row.format,
                [&](auto format) { take_back_unit<decltype(format), 8>(row, found.unit); });
  }
}

std::int64_t quotient_up(std::int64_t dividend, std::int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

template <class Team>
unsigned blocks_for(const RowRange& range) {
  return static_cast<unsigned>(quotient_up(range.index.units, Team::kTeams));
}

template <class Team>
int launch(Pass pass, const RowRange& range, cudaStream_t stream) {
  const unsigned blocks = blocks_for<Team>(range);
  if (pass == Pass::select) {
    run_pass<Team, Pass::select><<<blocks, kThreadsOf<Team>, 0, stream>>>(range);
  } else {
    run_pass<Team, Pass::gather><<<blocks, kThreadsOf<Team>, 0, stream>>>(range);
  }
  return cudaGetLastError();
}

}  // namespace

int load_step() {
  return load(run_pass<WarpTeam, Pass::select>, run_pass<WarpTeam, Pass::gather>,
              run_pass<BlockTeam, Pass::select>, run_pass<BlockTeam, Pass::gather>, run_fill,
              run_take_back);
}

int launch_by_warps(Pass pass, const RowRange& range, device::cuda::StreamHandle stream) {
  return launch<WarpTeam>(pass, range, stream);
}

int launch_by_blocks(Pass pass, const RowRange& range, device::cuda::StreamHandle stream) {
  return launch<BlockTeam>(pass, range, stream);
}

int launch_take_back(const RowRange& range, device::cuda::StreamHandle stream) {
  const std::int64_t blocks = quotient_up(range.index.units, kTakeBackLanes / kWarpLanes);
  run_take_back<<<static_cast<unsigned>(std::min(blocks, kTakeBackBlocks)), kTakeBackLanes, 0,
                  stream>>>(range);
  return cudaGetLastError();
}

int launch_fill(const RowRange& range, device::cuda::StreamHandle stream) {
  run_fill<<<blocks_for<WarpTeam>(range), kThreadsOf<WarpTeam>, 0, stream>>>(range);
  return cudaGetLastError();
}

}  // namespace scalecom::kernels::cuda
