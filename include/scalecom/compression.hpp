#pragma once

#include <cstdint>

#include "scalecom/export.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// How the bytes of an all-reduce are reduced. The values are part of the C ABI.
enum class CompressionMode : std::int32_t {
  /// Every element travels.
  none = 0,
  /// ScaleCom with CLT-k: rank (step mod world size) selects one element of every chunk and all
  /// ranks send exactly those (Chen et al., NeurIPS 2020, section 3).
  cyclic = 1,
  /// The same, but the tensor is cut in one shard a rank, and rank r selects for shard (r + step)
  /// mod world size: nobody waits for a leader's whole pass.
  /// The default of SCALECOM_MODE.
  sharded = 2,
  /// What SCALECOM_MODE says.
  by_setting = 3,
  /// sharded, on what the ranks of a host have on average: hosts are the workers. The ranks of a
  /// host that share its memory take the average of their gradients there, densely, and have the
  /// same residual afterwards; sharded where none do.
  hierarchical = 4,
  /// none or sharded, whichever finishes earlier by what was measured at init, or of CUDA devices
  /// with their first such tensors: Session::explain_compression(). By size and options alone.
  automatic = 5,
};

/// "dense", "cyclic", "sharded", "by setting", "hierarchical", "auto".
SCALECOM_API const char* to_string(CompressionMode mode) noexcept;

/// What to do with one tensor. Ranks must agree on it, as they do on the shape.
struct Compression {
  CompressionMode mode = CompressionMode::none;
  /// Elements in a chunk; one of them is sent. 1 to 65,536.
  std::int64_t rate = 100;
  /// Discount of the residual's low-pass filter, in (0, 1]; 1 is classical error feedback.
  double beta = 1.0;
  /// Steps of this tensor, counted from 0, that go dense before compression starts.
  std::int64_t warmup_steps = 0;
  /// Of the values on the wire: float32, float16 or bfloat16. What rounding takes away stays in the
  /// residual. Ranks add up in it, and what that rounds is not in a residual.
  DataType values = DataType::float32;
  /// Largest part of the selected elements that may miss the true top-k (d/k, see
  /// CompressionHealth), in [0, 1]: a sampled step with more has all ranks halve the tensor's chunk
  /// length, down to 1, where every element travels. 0: no guard. Needs SCALECOM_HEALTH_STEPS.
  double guard = 0.0;
  /// Steps after the warm-up in which the rate rises to `rate`. It begins with `rate` halved as
  /// often as leaves 4 or more, and doubles after equal numbers of steps: 6, 12, 25, 50, then 100.
  std::int32_t ramp_steps = 0;

  bool operator==(const Compression&) const = default;
};

}  // namespace scalecom
