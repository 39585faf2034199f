#pragma once

#include <cstdint>

namespace scalecom {

/// Where part `at` of `parts` equal parts starts. Divided first: count * at may be too large.
inline std::int64_t part_start(std::int64_t count, std::int64_t at, std::int64_t parts) {
  return count / parts * at + count % parts * at / parts;
}

}  // namespace scalecom
