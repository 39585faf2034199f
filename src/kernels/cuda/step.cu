#include <cuda_runtime_api.h>

#include "kernels/cuda/element.hpp"
#include "kernels/cuda/formats.cuh"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/step_rows.hpp"

// One ScaleCom step over a table of tensors. A team walks its units; each lane keeps several
// vectors in flight, its best element in registers, and the lane that owns a chunk's winner takes
// it. Nothing waits for another team.
namespace scalecom::kernels::cuda {
namespace {

constexpr int kBlockLanes = 1 << kBlockLanesLog2;
constexpr int kWarpLanes = 1 << kWarpLanesLog2;

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
  static constexpr int kTeams = kBlockLanes / kWarpLanes;
  static __device__ int index() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
  static __device__ Candidate best_of(Candidate own, std::int32_t lanes_log2) {
    return best_of_lanes(own, lanes_log2);
  }
};

/// For chunks that fill the block: lanes_log2 is kBlockLanesLog2.
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
    __syncthreads();  // Before the next chunk's candidates are written.
    return best;
  }
};

/// Four elements at `place`; a vector access where memory's vectors are the run's.
template <class Format>
__device__ typename Format::Vector load(const typename Format::Element* place, bool is_aligned) {
  if (is_aligned) return *reinterpret_cast<const typename Format::Vector*>(place);
  return Format::pack(place[0], place[1], place[2], place[3]);
}

template <class Format>
__device__ void store(typename Format::Element* place, bool is_aligned,
                      const typename Format::Vector& vector) {
  if (is_aligned) {
    *reinterpret_cast<typename Format::Vector*>(place) = vector;
    return;
  }
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) place[i] = Format::element(vector, i);
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

/// An element that a lane may have to take.
struct Taking {
  Candidate candidate;
  float memory = 0.0f;
  float g = 0.0f;
};

/// Stores what is sent and kept of a chunk, and its residual.
__device__ void take(const StepRow& row, const LanePart& part, const Taking& taking) {
  const auto place = taking.candidate.place;
  const TakenElement taken = with_format(row.value_format, [&](auto format) {
    using Format = decltype(format);
    const auto round = [](float value) { return Format::widen(Format::narrow(value)); };
    const TakenElement result = take_element(taking.memory, taking.g, row.beta, row.limit, round);
    global(static_cast<typename Format::Element*>(row.values))[part.chunk] =
        Format::narrow(result.sent);
    return result;
  });
  global(row.kept)[part.chunk] = taking.memory;
  global(row.memory)[part.begin + place] = taken.memory;
}

/// What a lane does with each element of select, gather and undo, and what it found.
template <Pass kPass>
struct LaneSweep {
  float prescale;
  float beta;
  std::int32_t nonfinite = 0;
  Taking taking;  ///< gather: its place is given

  /// `kIsAscending`: after lower places only, which spares looking at the place.
  template <bool kIsAscending>
  __device__ float visit(float memory, float raw, std::int32_t place) {
    const float g = prescale * raw;
    if (kPass == Pass::undo) return undo_element(memory, g, beta);
    const SweptElement swept = sweep_element(memory, g, beta);
    nonfinite += swept.bits > kLargestFinite;
    const Candidate candidate{swept.bits, place};
    const bool is_taken = kPass == Pass::gather ? place == taking.candidate.place
                          : kIsAscending        ? swept.bits > taking.candidate.bits
                                                : taking.candidate.is_beaten_by(candidate);
    if (is_taken) taking = {candidate, swept.memory, g};
    return swept.memory;
  }
};

template <Pass kPass, class Format>
__device__ void sweep_vectors(LaneSweep<kPass>& sweep, const Run& run, std::int32_t first,
                              std::int32_t lanes, float* memory, typename Format::Element* gradient,
                              bool has_zeros) {
  using Vector = typename Format::Vector;
  const bool is_aligned = shift_of(gradient + run.head) == 0;
  for (; first < run.vectors; first += lanes * kVectorsInFlight) {
    float4 m[kVectorsInFlight];
    Vector raw[kVectorsInFlight];
#pragma unroll
    for (int i = 0; i < kVectorsInFlight; ++i) {
      const std::int32_t vector = first + i * lanes;
      if (vector >= run.vectors) break;
      m[i] = load<Float32>(memory + run.vector_place(vector), true);
      raw[i] = load<Format>(gradient + run.vector_place(vector), is_aligned);
    }
#pragma unroll
    for (int i = 0; i < kVectorsInFlight; ++i) {
      const std::int32_t vector = first + i * lanes;
      if (vector >= run.vectors) break;
      const std::int32_t place = run.vector_place(vector);
      const auto visit = [&](float& value, int e) {
        value =
            sweep.template visit<true>(value, Format::widen(Format::element(raw[i], e)), place + e);
      };
      visit(m[i].x, 0);
      visit(m[i].y, 1);
      visit(m[i].z, 2);
      visit(m[i].w, 3);
      store<Float32>(memory + place, true, m[i]);
      if (has_zeros) store<Format>(gradient + place, is_aligned, Vector{});
    }
  }
}

/// select, gather and undo.
template <class Team, Pass kPass, class Format>
__device__ void sweep_unit(const StepRow& row, std::int64_t unit, bool has_zeros) {
  using Element = typename Format::Element;
  const LanePart part =
      lane_part(unit, Team::lane(), Team::kLanesLog2, row.lanes_log2, row.chunk, row.count);
  const std::int32_t lanes = 1 << row.lanes_log2;
  float* const memory = global(row.memory) + part.begin;
  Element* const gradient = global(static_cast<Element*>(row.gradient)) + part.begin;
  const Run run(part.length, shift_of(memory));
  LaneSweep<kPass> sweep{row.prescale, row.beta};
  if (kPass == Pass::gather && part.length > 0) {
    sweep.taking.candidate.place = global(row.offsets)[part.chunk];
  }
  sweep_vectors<kPass, Format>(sweep, run, part.member, lanes, memory, gradient, has_zeros);
  for (std::int32_t edge = part.member; edge < run.edges; edge += lanes) {
    const std::int32_t place = run.edge_place(edge);
    memory[place] =
        sweep.template visit<false>(memory[place], Format::widen(gradient[place]), place);
    if (has_zeros) gradient[place] = Element{};
  }
  if (kPass == Pass::undo) return;
  add_nonfinite(global(row.nonfinite), sweep.nonfinite);
  const Candidate own = sweep.taking.candidate;
  if (kPass == Pass::select) {
    const Candidate best = Team::best_of(own, row.lanes_log2);
    if (own.bits < 0 || own.place != best.place) return;
    global(row.offsets)[part.chunk] = static_cast<std::uint16_t>(own.place);
  }
  if (own.bits >= 0) take(row, part, sweep.taking);
}

/// Zeros, and the reduced value on the selected element.
template <class Team, class Format>
__device__ void fill_unit(const StepRow& row, std::int64_t unit) {
  using Element = typename Format::Element;
  const LanePart part =
      lane_part(unit, Team::lane(), Team::kLanesLog2, row.lanes_log2, row.chunk, row.count);
  if (part.length == 0) return;
  const std::int32_t lanes = 1 << row.lanes_log2;
  Element* const result = global(static_cast<Element*>(row.result)) + part.begin;
  const Run run(part.length, shift_of(result));
  const std::int32_t selected = global(row.offsets)[part.chunk];
  const Element value = Format::narrow(global(row.reduced)[part.chunk]);
  const auto filled = [&](std::int32_t place) { return place == selected ? value : Element{}; };
  for (std::int32_t edge = part.member; edge < run.edges; edge += lanes) {
    result[run.edge_place(edge)] = filled(run.edge_place(edge));
  }
  for (std::int32_t vector = part.member; vector < run.vectors; vector += lanes) {
    const std::int32_t place = run.vector_place(vector);
    store<Format>(
        result + place, true,
        Format::pack(filled(place), filled(place + 1), filled(place + 2), filled(place + 3)));
  }
}

template <class Team, Pass kPass>
__global__ __launch_bounds__(kBlockLanes) void run_pass(RowRange range, bool has_zeros) {
  const std::int64_t begin = blockIdx.x * range.units_a_block;
  const std::int64_t end = min(begin + range.units_a_block, range.units);
  std::int64_t unit = begin + Team::index();
  if (unit >= end) return;  // the whole team
  std::int32_t index = find_row(range.first_units, range.count, unit);
  for (; unit < end; unit += Team::kTeams) {
    while (range.first_units[index + 1] <= unit) ++index;
    const StepRow& row = range.rows[index];
    const std::int64_t own_unit = unit - range.first_units[index];
    with_format(row.format, [&](auto format) {
      if constexpr (kPass == Pass::fill) {
        fill_unit<Team, decltype(format)>(row, own_unit);
      } else {
        sweep_unit<Team, kPass, decltype(format)>(row, own_unit, has_zeros);
      }
    });
  }
}

/// One thread a chunk, for what touches the selected elements only.
template <ChunkPass kPass>
__global__ __launch_bounds__(kBlockLanes) void run_chunk_pass(RowRange range) {
  const std::int64_t unit = blockIdx.x * std::int64_t{WarpTeam::kTeams} + WarpTeam::index();
  if (unit >= range.units) return;
  const std::int32_t index = find_row(range.first_units, range.count, unit);
  const StepRow& row = range.rows[index];
  const std::int64_t first = (unit - range.first_units[index]) * kChunksAUnit;
  const std::int64_t end = min(first + kChunksAUnit, chunks_of(row.count, row.chunk));
#pragma unroll 4
  for (std::int64_t chunk = first + WarpTeam::lane(); chunk < end; chunk += kWarpLanes) {
    const std::int64_t place = chunk * row.chunk + global(row.offsets)[chunk];
    if (kPass == ChunkPass::restore) {
      global(row.memory)[place] = global(row.kept)[chunk];
    } else {
      with_format(row.format, [&](auto format) {
        using Format = decltype(format);
        global(static_cast<typename Format::Element*>(row.result))[place] =
            Format::narrow(global(row.reduced)[chunk]);
      });
    }
  }
}

template <class Format>
__global__ __launch_bounds__(kBlockLanes) void run_widen(float* values,
                                                         const typename Format::Element* source,
                                                         std::int64_t count) {
  const std::int64_t i = blockIdx.x * std::int64_t{kBlockLanes} + threadIdx.x;
  if (i < count) values[i] = Format::widen(source[i]);
}

std::int64_t quotient_up(std::int64_t dividend, std::int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

template <class Team>
int launch(Pass pass, const RowRange& range, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(quotient_up(range.units, range.units_a_block));
  const bool has_zeros = pass == Pass::select_and_zero || pass == Pass::gather_and_zero;
  switch (pass) {
    case Pass::select:
    case Pass::select_and_zero:
      run_pass<Team, Pass::select><<<blocks, kBlockLanes, 0, stream>>>(range, has_zeros);
      break;
    case Pass::gather:
    case Pass::gather_and_zero:
      run_pass<Team, Pass::gather><<<blocks, kBlockLanes, 0, stream>>>(range, has_zeros);
      break;
    case Pass::undo:
      run_pass<Team, Pass::undo><<<blocks, kBlockLanes, 0, stream>>>(range, false);
      break;
    case Pass::fill:
      run_pass<Team, Pass::fill><<<blocks, kBlockLanes, 0, stream>>>(range, false);
      break;
  }
  return cudaGetLastError();
}

}  // namespace

int launch_by_warps(Pass pass, const RowRange& range, device::cuda::StreamHandle stream) {
  return launch<WarpTeam>(pass, range, stream);
}

int launch_by_blocks(Pass pass, const RowRange& range, device::cuda::StreamHandle stream) {
  return launch<BlockTeam>(pass, range, stream);
}

int launch_by_chunks(ChunkPass pass, const RowRange& range, device::cuda::StreamHandle stream) {
  const auto blocks = static_cast<unsigned>(quotient_up(range.units, WarpTeam::kTeams));
  if (pass == ChunkPass::restore) {
    run_chunk_pass<ChunkPass::restore><<<blocks, kBlockLanes, 0, stream>>>(range);
  } else {
    run_chunk_pass<ChunkPass::scatter><<<blocks, kBlockLanes, 0, stream>>>(range);
  }
  return cudaGetLastError();
}

int launch_widen(float* values, const void* source, ElementFormat format, std::int64_t count,
                 device::cuda::StreamHandle stream) {
  const auto blocks = static_cast<unsigned>(quotient_up(count, kBlockLanes));
  const auto* const narrow = static_cast<const std::uint16_t*>(source);
  switch (format) {
    case ElementFormat::float16:
      run_widen<Float16><<<blocks, kBlockLanes, 0, stream>>>(values, narrow, count);
      break;
    case ElementFormat::bfloat16:
      run_widen<Bfloat16><<<blocks, kBlockLanes, 0, stream>>>(values, narrow, count);
      break;
    default:
      run_widen<Float32>
          <<<blocks, kBlockLanes, 0, stream>>>(values, static_cast<const float*>(source), count);
  }
  return cudaGetLastError();
}

}  // namespace scalecom::kernels::cuda
