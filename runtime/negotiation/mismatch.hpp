#pragma once

#include <string>
#include <vector>

#include "runtime/negotiation/tensor_table.hpp"

namespace scalecom::negotiation {

/// Says which fields differ and who submitted which value:
/// "tensor w: shape differs between ranks: [4] on ranks 0-2; [5] on rank 3. ..."
/// The length is bounded whatever the number of ranks and values. Requires two groups.
std::string describe_mismatch(const std::string& name, const std::vector<SignatureGroup>& groups);

/// "shape [5] instead of [4] and op max instead of sum": what differs from what was expected.
std::string describe_change(const TensorSignature& expected, const TensorSignature& got);

}  // namespace scalecom::negotiation
