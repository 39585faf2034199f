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
/// Blocks of a sweep that a multiprocessor shall hold: registers are given out for that. Fewer do
/// not hide the memory's latency; for more the compiler would have to keep registers in memory.
constexpr int kBlocksWanted = 12;

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
  const float memory = global(row.memory)[index];
  const auto* const gradient = global(static_cast<const typename Format::Element*>(row.gradient));
  const float g = row.prescale * Format::widen(gradient[index]);
  with_format(row.value_format, [&](auto format) {
    using ValueFormat = decltype(format);
    const auto round = [](float value) { return ValueFormat::widen(ValueFormat::narrow(value)); };
    const TakenElement taken = take_element(memory, g, row.beta, row.limit, round);
    global(static_cast<typename ValueFormat::Element*>(row.values))[part.chunk] =
        ValueFormat::narrow(taken.sent);
    global(row.memory)[index] = taken.memory;
  });
  global(row.kept)[part.chunk] = memory;
}

/// A lane's way through its part of a chunk in select, gather and undo.
template <Pass kPass, class Format>
struct LaneSweep {
  using Element = typename Format::Element;

  float prescale;
  float beta;
  std::int32_t lanes;  ///< of the chunk
  float* memory;       ///< of the chunk's first element, like `gradient`
  Element* gradient;
  std::int32_t nonfinite = 0;
  Candidate best;

  /// `kIsAligned`: the gradient's vectors are the memory's.
  template <bool kIsAligned>
  __device__ void sweep_vectors(const Run& run, std::int32_t first) {
    const std::int32_t step = lanes * kVectorsInFlight;
    for (; first < run.vectors; first += step) {
      float4* const m_at = reinterpret_cast<float4*>(memory + run.head) + first;
      Element* const g_at = gradient + run.head + first * kVectorElements;
      const std::int32_t left = run.vectors - first;
      float4 m[kVectorsInFlight];
      typename Format::Vector raw[kVectorsInFlight];
#pragma unroll
      for (int i = 0; i < kVectorsInFlight; ++i) {
        if (i * lanes >= left) break;
        m[i] = m_at[i * lanes];
        raw[i] = load<Format, kIsAligned>(g_at, i * lanes);
      }
#pragma unroll
      for (int i = 0; i < kVectorsInFlight; ++i) {
        if (i * lanes >= left) break;
        const Quad swept = sweep_vector(Float32::widen_all(m[i]), Format::widen_all(raw[i]),
                                        run.vector_place(first + i * lanes));
        m_at[i * lanes] = Float32::pack(swept.at[0], swept.at[1], swept.at[2], swept.at[3]);
      }
    }
  }

  __device__ void sweep_edges(const Run& run, std::int32_t first) {
    for (std::int32_t edge = first; edge < run.edges; edge += lanes) {
      const std::int32_t place = run.edge_place(edge);
      const float g = prescale * Format::widen(gradient[place]);
      if (kPass == Pass::undo) {
        memory[place] = undo_element(memory[place], g, beta);
        continue;
      }
      const SweptElement swept = sweep_element(memory[place], g, beta);
      memory[place] = swept.memory;
      nonfinite += swept.bits > kLargestFinite;
      const Candidate candidate{swept.bits, place};
      if (best.is_beaten_by(candidate)) best = candidate;
    }
  }

  __device__ void store_zeros(const Run& run, std::int32_t first) {
    const bool is_aligned = shift_of(gradient + run.head) == 0;
    for (std::int32_t vector = first; vector < run.vectors; vector += lanes) {
      Element* const place = gradient + run.vector_place(vector);
      if (is_aligned) {
        *reinterpret_cast<typename Format::Vector*>(place) = {};
      } else {
        for (int i = 0; i < kVectorElements; ++i) place[i] = Element{};
      }
    }
    for (std::int32_t edge = first; edge < run.edges; edge += lanes) {
      gradient[run.edge_place(edge)] = Element{};
    }
  }

 private:
  /// Vectors come in the order of their places, so an equal one does not beat the best.
  __device__ Quad sweep_vector(const Quad& m, Quad g, std::int32_t place) {
#pragma unroll
    for (int i = 0; i < kVectorElements; ++i) g.at[i] *= prescale;
    if (kPass == Pass::undo) {
      Quad undone;
#pragma unroll
      for (int i = 0; i < kVectorElements; ++i) {
        undone.at[i] = undo_element(m.at[i], g.at[i], beta);
      }
      return undone;
    }
    const SweptQuad swept = sweep_quad(m, g, beta);
    nonfinite += swept.nonfinite;
    if (swept.bits > best.bits) best = {swept.bits, place + swept.largest};
    return swept.memory;
  }
};

/// select, gather and undo of a unit.
template <class Team, Pass kPass, class Format>
__device__ void sweep_unit(const StepRow& row, std::int64_t unit, bool has_zeros) {
  const std::int32_t lanes_log2 = row.lanes_log2;
  const LanePart part =
      lane_part(unit, Team::lane(), Team::kLanesLog2, lanes_log2, row.chunk, row.count);
  LaneSweep<kPass, Format> sweep{
      row.prescale, row.beta, 1 << lanes_log2, global(row.memory) + part.begin,
      global(static_cast<typename Format::Element*>(row.gradient)) + part.begin};
  const Run run(part.length, shift_of(sweep.memory));
  if (shift_of(sweep.gradient + run.head) == 0) {
    sweep.template sweep_vectors<true>(run, part.member);
  } else {
    sweep.template sweep_vectors<false>(run, part.member);
  }
  sweep.sweep_edges(run, part.member);
  if (kPass == Pass::undo) return;
  add_nonfinite(global(row.nonfinite), sweep.nonfinite);
  std::int32_t selected = 0;
  if (kPass == Pass::select) {
    selected = Team::best_of(sweep.best, lanes_log2).place;
  } else if (part.length > 0) {
    selected = global(row.offsets)[part.chunk];
  }
  // The lane that swept the element: it need not wait for another's store.
  if (part.length > 0 && part.member == run.member_at(selected, lanes_log2)) {
    if (kPass == Pass::select) {
      global(row.offsets)[part.chunk] = static_cast<std::uint16_t>(selected);
    }
    take<Format>(row, part, selected);
  }
  if (has_zeros) sweep.store_zeros(run, part.member);
}

/// Zeros, and the reduced values on the selected elements, for kFilledAUnit elements.
template <class Format>
__device__ void fill_unit(const StepRow& row, std::int64_t unit) {
  using Element = typename Format::Element;
  const std::int64_t begin = unit * kFilledAUnit;
  const std::int32_t chunk = row.chunk;
  const std::int64_t first_chunk = begin / chunk;
  const auto skipped = static_cast<std::int32_t>(begin - first_chunk * chunk);
  const auto* const offsets = global(row.offsets) + first_chunk;
  const float* const reduced = global(row.reduced) + first_chunk;
  Element* const result = global(static_cast<Element*>(row.result)) + begin;
  const Run run(static_cast<std::int32_t>(min(std::int64_t{kFilledAUnit}, row.count - begin)),
                shift_of(result));
  const float inverse = 1.0f / static_cast<float>(chunk);
  const auto filled = [&](std::int32_t place) {
    const std::int32_t own = chunk_at(skipped + place, inverse);
    return skipped + place - own * chunk == offsets[own] ? Format::narrow(reduced[own]) : Element{};
  };
#pragma unroll 4
  for (std::int32_t vector = WarpTeam::lane(); vector < run.vectors; vector += kWarpLanes) {
    const std::int32_t place = run.vector_place(vector);
    const std::int32_t own = chunk_at(skipped + place, inverse);
    const std::int32_t in_chunk = skipped + place - own * chunk;
    typename Format::Vector elements{};
    if (in_chunk + kVectorElements <= chunk) {
      const std::int32_t distance = offsets[own] - in_chunk;
      if (distance >= 0 && distance < kVectorElements) {
        elements = Format::at(distance, Format::narrow(reduced[own]));
      }
    } else {
      elements =
          Format::pack(filled(place), filled(place + 1), filled(place + 2), filled(place + 3));
    }
    *reinterpret_cast<typename Format::Vector*>(result + place) = elements;
  }
  for (std::int32_t edge = WarpTeam::lane(); edge < run.edges; edge += kWarpLanes) {
    result[run.edge_place(edge)] = filled(run.edge_place(edge));
  }
}

/// Stores the kept residuals, or the reduced values, of kSelectedAUnit chunks.
template <SelectedPass kPass, class Format>
__device__ void store_selected(const StepRow& row, std::int64_t unit) {
  const std::int64_t first = unit * kSelectedAUnit;
  const std::int64_t end = min(first + kSelectedAUnit, chunks_of(row.count, row.chunk));
  const auto* const offsets = global(row.offsets);
#pragma unroll 4
  for (std::int64_t chunk = first + WarpTeam::lane(); chunk < end; chunk += kWarpLanes) {
    const std::int64_t place = chunk * row.chunk + offsets[chunk];
    if (kPass == SelectedPass::restore) {
      global(row.memory)[place] = global(row.kept)[chunk];
    } else {
      global(static_cast<typename Format::Element*>(row.result))[place] =
          Format::narrow(global(row.reduced)[chunk]);
    }
  }
}

/// Calls body(row, unit, format) for the team's unit.
template <class Team, class Body>
__device__ void with_unit(const RowRange& range, const Body& body) {
  __shared__ StepRow rows[kBlockLanes / kWarpLanes];
  const std::int64_t unit = blockIdx.x * std::int64_t{Team::kTeams} + Team::index();
  if (unit >= range.index.units) return;  // the whole team
  const Found found = find_row(range.index, unit);
  const StepRow& row = load_row(rows[WarpTeam::index()], range.rows + found.row);
  with_format(row.format, [&](auto format) { body(row, found.unit, format); });
}

template <class Team, Pass kPass>
__global__ __launch_bounds__(kBlockLanes,
                             kBlocksWanted) void run_pass(const __grid_constant__ RowRange range,
                                                          bool has_zeros) {
  with_unit<Team>(range, [&](const StepRow& row, std::int64_t unit, auto format) {
    sweep_unit<Team, kPass, decltype(format)>(row, unit, has_zeros);
  });
}

__global__ __launch_bounds__(kBlockLanes) void run_fill(const __grid_constant__ RowRange range) {
  with_unit<WarpTeam>(range, [](const StepRow& row, std::int64_t unit, auto format) {
    fill_unit<decltype(format)>(row, unit);
  });
}

template <SelectedPass kPass>
__global__ __launch_bounds__(kBlockLanes) void run_on_selected(
    const __grid_constant__ RowRange range) {
  with_unit<WarpTeam>(range, [](const StepRow& row, std::int64_t unit, auto format) {
    store_selected<kPass, decltype(format)>(row, unit);
  });
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
unsigned blocks_for(const RowRange& range) {
  return static_cast<unsigned>(quotient_up(range.index.units, Team::kTeams));
}

template <class Team>
int launch(Pass pass, const RowRange& range, cudaStream_t stream) {
  const unsigned blocks = blocks_for<Team>(range);
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

int launch_on_selected(SelectedPass pass, const RowRange& range,
                       device::cuda::StreamHandle stream) {
  const unsigned blocks = blocks_for<WarpTeam>(range);
  if (pass == SelectedPass::restore) {
    run_on_selected<SelectedPass::restore><<<blocks, kBlockLanes, 0, stream>>>(range);
  } else {
    run_on_selected<SelectedPass::scatter><<<blocks, kBlockLanes, 0, stream>>>(range);
  }
  return cudaGetLastError();
}

int launch_fill(const RowRange& range, device::cuda::StreamHandle stream) {
  run_fill<<<blocks_for<WarpTeam>(range), kBlockLanes, 0, stream>>>(range);
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
