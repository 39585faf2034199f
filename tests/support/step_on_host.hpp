#pragma once

#include "kernels/accelerator.hpp"

/// The passes of StepTable and SampleTable for one tensor in host memory, by the CPU's kernels:
/// what every accelerator is compared with, and what the fake one runs.
namespace scalecom::test {

void select_on_host(const StepTensor& tensor);
void gather_on_host(const StepTensor& tensor);
void take_back_on_host(const StepTensor& tensor);
void fill_on_host(const StepTensor& tensor);
void look_on_host(const SampledTensor& tensor);
void count_nonfinite_on_host(std::int64_t* found, const std::byte* values, DataType dtype,
                             std::int64_t count);
void mark_on_host(std::byte* marks, DataType dtype, std::int64_t* counts, std::int64_t count);
void pack_offsets_on_host(std::byte* wire, std::int64_t wire_bytes, const std::uint16_t* offsets,
                          std::int64_t count);
void unpack_offsets_on_host(std::uint16_t* offsets, const std::byte* wire, std::int64_t wire_bytes,
                            std::int64_t count, std::int64_t first);

}  // namespace scalecom::test
