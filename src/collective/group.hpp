#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/wait.hpp"
#include "collective/scratch.hpp"
#include "kernels/reduce.hpp"
#include "scalecom/tensor.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// What every algorithm runs on: the ranks, memory and patience.
struct Group {
  Transport& transport;
  Scratch& scratch;
  const WaitContext& context;
  /// Added to the tags of all messages, to keep operations apart that are under way at once.
  int first_tag = 0;

  int rank() const noexcept { return transport.rank(); }
  int size() const noexcept { return transport.size(); }
};

/// How elements are combined.
struct Reduction {
  DataType dtype = DataType::float32;
  ReduceOp op = ReduceOp::sum;

  std::size_t element_bytes() const noexcept { return static_cast<std::size_t>(size_of(dtype)); }
  /// destination = a op b over whole elements.
  void operator()(std::byte* destination, const std::byte* a, const std::byte* b,
                  std::size_t bytes) const {
    kernels::reduce(destination, a, b, static_cast<std::int64_t>(bytes / element_bytes()), dtype,
                    op);
  }
};

/// `data` cut in rank order into parts of bytes_per_rank bytes, which are all of it.
template <class Byte>
std::vector<std::span<Byte>> cut(std::span<Byte> data,
                                 std::span<const std::int64_t> bytes_per_rank) {
  std::vector<std::span<Byte>> parts;
  parts.reserve(bytes_per_rank.size());
  std::size_t begin = 0;
  for (const std::int64_t bytes : bytes_per_rank) {
    parts.push_back(data.subspan(begin, static_cast<std::size_t>(bytes)));
    begin += static_cast<std::size_t>(bytes);
  }
  return parts;
}

/// Puts a rank's own part of an all-gather into its place, where it may be already.
inline void place_own(std::span<const std::byte> mine, std::span<std::byte> place) {
  SCALECOM_ASSERT(mine.size() == place.size(), std::to_string(mine.size()) + " bytes, " +
                                                   std::to_string(place.size()) + " agreed");
  if (!mine.empty() && mine.data() != place.data()) {
    std::memcpy(place.data(), mine.data(), mine.size());
  }
}

/// Part `index` of `data` cut in `parts` of whole elements, as equal as can be; the first ones are
/// longer.
inline std::span<std::byte> part_of(std::span<std::byte> data, int parts, int index,
                                    std::size_t element_bytes) {
  const std::size_t count = data.size() / element_bytes;
  const auto n = static_cast<std::size_t>(parts);
  const auto i = static_cast<std::size_t>(index);
  const std::size_t base = count / n;
  const std::size_t longer = count % n;
  const std::size_t begin = i * base + std::min(i, longer);
  const std::size_t length = base + (i < longer ? 1 : 0);
  return data.subspan(begin * element_bytes, length * element_bytes);
}

}  // namespace scalecom
