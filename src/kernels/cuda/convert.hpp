#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda/stream.hpp"
#include "kernels/cuda/step_rows.hpp"

/// One array into another, element by element; and what is counted in one. Each launches for
/// `count` > 0 elements and returns a cudaError_t. Pointers are device memory, aligned to their
/// elements.
namespace scalecom::kernels::cuda {

/// Loads the kernels of all below; returns a cudaError_t.
int load_conversions();

int launch_widen(float* values, const std::byte* source, ElementFormat format, std::int64_t count,
                 device::cuda::StreamHandle stream);
/// Leaves zeros in `counts`.
int launch_mark(std::byte* marks, ElementFormat format, std::int64_t* counts, std::int64_t count,
                device::cuda::StreamHandle stream);
int launch_count_nonfinite(std::int64_t* found, const std::byte* values, ElementFormat format,
                           std::int64_t count, device::cuda::StreamHandle stream);
/// `wire_bytes` of an offset on the wire: 1 or 2.
int launch_pack_offsets(std::byte* wire, std::int64_t wire_bytes, const std::uint16_t* offsets,
                        std::int64_t count, device::cuda::StreamHandle stream);
int launch_unpack_offsets(std::uint16_t* offsets, const std::byte* wire, std::int64_t wire_bytes,
                          std::int64_t count, std::int64_t first,
                          device::cuda::StreamHandle stream);

}  // namespace scalecom::kernels::cuda
