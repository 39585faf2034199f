#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace scalecom::test {

/// Fills `values` with copies of its first `period` ones. For large inputs: a sanitizer's build
/// runs the tests' own loops unoptimised. A prime period is no part of a chunk's or a block's size,
/// so that what lands in the wrong place shows.
template <class Value>
void repeat(std::vector<Value>& values, std::size_t period) {
  for (std::size_t i = period; i < values.size(); i += period) {
    std::copy_n(values.data(), std::min(period, values.size() - i), values.data() + i);
  }
}

}  // namespace scalecom::test
