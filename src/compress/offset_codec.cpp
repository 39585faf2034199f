#include "compress/offset_codec.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"

namespace scalecom {
namespace {

void check_sizes(std::size_t offsets, std::size_t bytes, std::int64_t rate) {
  SCALECOM_ASSERT(rate >= 1 && rate <= kRateMax, fmt::format("rate {}", rate));
  SCALECOM_ASSERT(bytes == offsets * static_cast<std::size_t>(offset_bytes(rate)),
                  fmt::format("{} bytes for {} offsets at rate {}", bytes, offsets, rate));
}

}  // namespace

void encode_offsets(std::span<const std::uint16_t> offsets, std::int64_t rate,
                    std::span<std::byte> wire) {
  check_sizes(offsets.size(), wire.size(), rate);
  if (offset_bytes(rate) == 1) {
    std::transform(offsets.begin(), offsets.end(), wire.begin(),
                   [](std::uint16_t offset) { return static_cast<std::byte>(offset); });
    return;
  }
  for (std::size_t j = 0; j < offsets.size(); ++j) {
    wire[2 * j] = static_cast<std::byte>(offsets[j] & 0xFF);
    wire[2 * j + 1] = static_cast<std::byte>(offsets[j] >> 8);
  }
}

void decode_offsets(std::span<const std::byte> wire, std::int64_t count, std::int64_t rate,
                    std::span<std::uint16_t> offsets) {
  check_sizes(offsets.size(), wire.size(), rate);
  if (offset_bytes(rate) == 1) {
    std::transform(wire.begin(), wire.end(), offsets.begin(),
                   [](std::byte byte) { return static_cast<std::uint16_t>(byte); });
  } else {
    for (std::size_t j = 0; j < offsets.size(); ++j) {
      offsets[j] = static_cast<std::uint16_t>(static_cast<unsigned>(wire[2 * j]) |
                                              static_cast<unsigned>(wire[2 * j + 1]) << 8);
    }
  }
  if (offsets.empty()) return;
  const std::int64_t largest = *std::max_element(offsets.begin(), offsets.end());
  const std::int64_t last = (static_cast<std::int64_t>(offsets.size()) - 1) * rate + offsets.back();
  if (largest >= rate || last >= count) {
    throw Error(StatusCode::internal,
                fmt::format("the leader sent the offset {} for chunks of {} elements, or {} for "
                            "the last of {} elements",
                            largest, rate, offsets.back(), count));
  }
}

}  // namespace scalecom
