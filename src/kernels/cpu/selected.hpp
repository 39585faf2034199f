#pragma once

#include "base/error.hpp"
#include "kernels/select.hpp"

namespace scalecom::kernels {

/// Stays in the first-level cache beside offsets and values.
inline constexpr std::size_t kBlockBytes = 4096;
/// A cache line, and the longest vector.
inline constexpr std::size_t kBlockAlignment = 64;
/// Results of this size and more are written past the caches: they would not stay there, and the
/// lines that are written need not be read first.
inline constexpr std::int64_t kStreamedBytes = std::int64_t{4} << 20;

/// What fill_selected() works on; `selected` is the number of chunks.
struct FillArguments {
  std::byte* result;
  DataType dtype;
  std::int64_t count;
  std::int64_t chunk;
  std::int64_t selected;
  const std::uint16_t* offsets;
  const float* values;
  bool is_streamed;
};

}  // namespace scalecom::kernels
