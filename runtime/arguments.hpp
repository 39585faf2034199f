#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "scalecom/session.hpp"

namespace scalecom {

// Checks of what a caller hands in, before anything is submitted. Each throws
// Error(invalid_argument) that names the tensor, what was got and what is allowed.

/// Of a tensor of `dtype`: its elements and bytes can be counted.
void check_shape(const std::string& name, const Shape& shape, DataType dtype);
void check_all_reduce(const std::string& name, const TensorView& input, const TensorView& output,
                      const AllReduceOptions& options);
/// Of a member of a group whose first member is `first`.
void check_member(const GroupMember& member, const GroupMember& first);
/// Of an all-reduce of `dtype`.
void check_compression(const std::string& name, DataType dtype, const AllReduceOptions& options);
/// `what` names it.
void check_not_negative(const char* what, std::int64_t value);
/// Of a tensor that there is no more of.
void check_explained(std::int64_t count, DataType dtype, const Compression& compression,
                     DeviceKind device);
/// Of a tensor whose compression is allowed, in a session of such settings.
void check_guard(const std::string& name, const Compression& compression, const Config& config);
void check_all_gather(const std::string& name, const TensorView& input);
void check_reduce_scatter(const std::string& name, const TensorView& input,
                          const ReduceOptions& options);
/// `size` ranks; no splits: equal parts.
void check_all_to_all(const std::string& name, const TensorView& input,
                      std::span<const std::int64_t> splits, int size);
void check_broadcast(const std::string& name, const TensorView& tensor, int root, int size);
void check_residual(const Residual& residual);

}  // namespace scalecom
