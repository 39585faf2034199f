#pragma once

#include <cstdint>

namespace scalecom {

/// How the bytes of an all-reduce are reduced. The values are part of the C ABI.
enum class CompressionMode : std::int32_t {
  /// Every element travels.
  none = 0,
  /// ScaleCom with CLT-k: rank (step mod world size) selects one element of every chunk and all
  /// ranks send exactly those (Chen et al., NeurIPS 2020, section 3).
  cyclic = 1,
};

/// What to do with one tensor. Ranks must agree on it, as they do on the shape.
struct Compression {
  CompressionMode mode = CompressionMode::none;
  /// Elements in a chunk; one of them is sent. 1 to 65,536.
  std::int64_t rate = 100;
  /// Discount of the residual's low-pass filter, in (0, 1]; 1 is classical error feedback.
  double beta = 1.0;
  /// Steps of this tensor, counted from 0, that go dense before compression starts.
  std::int64_t warmup_steps = 0;

  bool operator==(const Compression&) const = default;
};

}  // namespace scalecom
