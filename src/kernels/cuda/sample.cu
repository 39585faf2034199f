#include <cuda_runtime_api.h>

#include "kernels/cuda/formats.cuh"
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sample_rows.hpp"
#include "kernels/sampled_element.hpp"

// A block looks at the sampled chunks of one tensor, a few thousand elements. That happens once in
// many steps, so it is short rather than fast: sums have one order, without atomics.
namespace scalecom::kernels::cuda {
namespace {

constexpr int kLanes = 512;
constexpr int kWarpLanes = 32;
constexpr int kWarps = kLanes / kWarpLanes;

/// Sums of squares.
struct Squares {
  double error = 0.0;
  double compensated = 0.0;
  double residual = 0.0;
  double gradient = 0.0;

  __device__ void add(const Squares& other) {
    error += other.error;
    compensated += other.compensated;
    residual += other.residual;
    gradient += other.gradient;
  }
};

__device__ double sum_of_warp(double value) {
  for (int distance = kWarpLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, distance);
  }
  return value;
}

/// What all lanes have, in lane 0.
__device__ Squares sum_of_block(const Squares& own) {
  __shared__ double sums[kWarps][4];
  const Squares of_warp{sum_of_warp(own.error), sum_of_warp(own.compensated),
                        sum_of_warp(own.residual), sum_of_warp(own.gradient)};
  if (threadIdx.x % kWarpLanes == 0) {
    double* const place = sums[threadIdx.x / kWarpLanes];
    place[0] = of_warp.error;
    place[1] = of_warp.compensated;
    place[2] = of_warp.residual;
    place[3] = of_warp.gradient;
  }
  __syncthreads();
  Squares all;
  if (threadIdx.x > 0) return all;
  for (int warp = 0; warp < kWarps; ++warp) {
    all.add({sums[warp][0], sums[warp][1], sums[warp][2], sums[warp][3]});
  }
  return all;
}

__device__ float ratio(double numerator, double denominator) {
  return numerator == 0.0 ? 0.0f : static_cast<float>(sqrt(numerator / denominator));
}

/// Of an all-gather that was aborted an offset may be anything: never beyond the chunk.
__device__ std::int32_t selected_in(const SampleRow& row, const SampleChunkRow& chunk,
                                    std::int32_t number) {
  const std::int32_t left = row.elements - number * row.chunk;
  const std::int32_t length = left < row.chunk ? left : row.chunk;
  const auto offset = static_cast<std::int32_t>(*global(chunk.offset));
  return offset < length ? offset : length - 1;
}

/// Elements kLanes apart, of all chunks as one row of them.
template <class Format>
__device__ Squares look_at(const SampleRow& row) {
  const auto beta = static_cast<double>(row.beta);
  Squares squares;
  for (auto i = static_cast<std::int32_t>(threadIdx.x); i < row.elements; i += kLanes) {
    const std::int32_t number = i / row.chunk;
    const std::int32_t place = i - number * row.chunk;
    const SampleChunkRow& chunk = row.chunks[number];
    const float m = global(chunk.residual)[place];
    const auto* const gradient =
        global(static_cast<const typename Format::Element*>(chunk.gradient));
    const float g = row.prescale * Format::widen(gradient[place]);
    const SampledElement element = place == selected_in(row, chunk, number)
                                       ? sent_element(m, *global(chunk.kept), g, beta)
                                       : unsent_element(m, g, beta);
    squares.add({element.error * element.error, element.compensated * element.compensated,
                 static_cast<double>(m) * m, static_cast<double>(g) * g});
    global(row.compensated)[i] = static_cast<float>(element.compensated);
  }
  return squares;
}

__global__ __launch_bounds__(kLanes) void run_look(const SampleRow* rows) {
  const SampleRow& row = rows[blockIdx.x];
  const Squares own =
      with_format(row.format, [&](auto format) { return look_at<decltype(format)>(row); });
  for (auto i = static_cast<std::int32_t>(threadIdx.x); i < row.chunks_used; i += kLanes) {
    global(row.offsets)[i] = static_cast<std::uint16_t>(selected_in(row, row.chunks[i], i));
  }
  const Squares all = sum_of_block(own);
  if (threadIdx.x > 0) return;
  const float figures[2] = {ratio(all.error, all.compensated), ratio(all.residual, all.gradient)};
  for (int i = 0; i < 2; ++i) {
    global(row.compensated)[row.elements + i] = figures[i];
    global(row.figures)[i] = figures[i];
  }
}

}  // namespace

int load_look() { return load(run_look); }

int launch_look(const SampleRow* rows, std::int32_t rows_used, device::cuda::StreamHandle stream) {
  run_look<<<static_cast<unsigned>(rows_used), kLanes, 0, stream>>>(rows);
  return cudaGetLastError();
}

}  // namespace scalecom::kernels::cuda
