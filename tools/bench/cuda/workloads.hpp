#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tools/bench/cuda/rounds.hpp"

namespace scalecom::bench {

/// The workload that the others are compared with: a device-to-device copy of a large tensor.
inline constexpr char kCopyName[] = "copy, device to device";

/// Device memory that workloads share; outlives them.
class Tensors;

/// Tensors of `count` elements, with normal values.
std::shared_ptr<Tensors> make_tensors(std::int64_t count);

/// The passes over one large tensor, and copies of it.
std::vector<Workload> large_workloads(const std::shared_ptr<Tensors>& tensors);

/// 1,000 tensors of 10,000 elements in one launch.
std::vector<Workload> many_tensors_workloads(const std::shared_ptr<Tensors>& tensors);

/// Packing and unpacking 1,000 tensors of several dtypes and sizes, together 100 MB.
std::vector<Workload> pack_workloads(const std::shared_ptr<Tensors>& tensors);

}  // namespace scalecom::bench
