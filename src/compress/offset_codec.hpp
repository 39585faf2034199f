#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace scalecom {

/// Longest chunk whose in-chunk offsets fit 8 bits on the wire.
inline constexpr std::int64_t kByteOffsetRateMax = 256;
/// Longest chunk at all: offsets fit 16 bits.
inline constexpr std::int64_t kRateMax = 65536;

/// k = ceil(count / rate): one selected element a chunk; the last chunk may be short.
constexpr std::int64_t selected_count(std::int64_t count, std::int64_t rate) noexcept {
  return (count + rate - 1) / rate;
}

/// Bytes of one in-chunk offset on the wire: 1 for chunks of up to 256 elements, else 2.
constexpr std::int64_t offset_bytes(std::int64_t rate) noexcept {
  return rate <= kByteOffsetRateMax ? 1 : 2;
}

/// Bytes of all offsets of a tensor on the wire.
constexpr std::int64_t encoded_bytes(std::int64_t count, std::int64_t rate) noexcept {
  return selected_count(count, rate) * offset_bytes(rate);
}

/// Writes `offsets` (each below `rate`), little-endian, to `wire` of offsets.size() *
/// offset_bytes(rate) bytes.
void encode_offsets(std::span<const std::uint16_t> offsets, std::int64_t rate,
                    std::span<std::byte> wire);

/// Reads them back. Throws Error(internal) when an offset does not lie in its chunk of the `count`
/// elements, so that a leader's defect can never become a write outside of the tensor.
void decode_offsets(std::span<const std::byte> wire, std::int64_t count, std::int64_t rate,
                    std::span<std::uint16_t> offsets);

}  // namespace scalecom
