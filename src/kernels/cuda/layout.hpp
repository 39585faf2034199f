#pragma once

#include <cstdint>

/// Which lane of which warp works on which elements. C++17 and constexpr, like element.hpp.
///
/// A *team* is a warp, or a block for long chunks. A *unit* is what a team does at a time: a few
/// consecutive chunks, each shared by `lanes` lanes, a power of two. A chunk is a run of *vectors*,
/// four elements that begin at a multiple of four elements in memory, so that an access is 16 bytes
/// for float32, and up to six *edges*, the elements before and behind them. A lane takes every
/// lanes-th vector, and every lanes-th edge.
namespace scalecom::kernels::cuda {

inline constexpr std::int32_t kVectorElements = 4;
/// Vectors that a lane loads before it uses the first.
inline constexpr std::int32_t kVectorsInFlight = 4;
inline constexpr std::int32_t kWarpLanesLog2 = 5;
inline constexpr std::int32_t kBlockLanesLog2 = 6;
/// Elements of a chunk that a warp would have to walk in several rounds: a block does it.
inline constexpr std::int32_t kWarpChunkMax = 4096;

/// What a warp does at a time where it fills, or takes back.
inline constexpr std::int32_t kFilledAUnit = 2048;

/// log2 of the fewest lanes that hold a chunk of `chunk` elements in flight at once, but at most
/// the team's.
constexpr std::int32_t lanes_log2_for(std::int32_t chunk, std::int32_t team_lanes_log2) {
  const std::int32_t vectors = (chunk + kVectorElements - 1) / kVectorElements;
  std::int32_t lanes_log2 = 0;
  while (lanes_log2 < team_lanes_log2 && (kVectorsInFlight << lanes_log2) < vectors) ++lanes_log2;
  return lanes_log2;
}

/// Chunks of a tensor.
constexpr std::int64_t chunks_of(std::int64_t count, std::int32_t chunk) {
  return (count + chunk - 1) / chunk;
}

/// Units of a tensor whose chunks are shared by 2^lanes_log2 lanes each.
constexpr std::int64_t units_of(std::int64_t chunks, std::int32_t team_lanes_log2,
                                std::int32_t lanes_log2) {
  const std::int32_t log2 = team_lanes_log2 - lanes_log2;
  return (chunks + (std::int64_t{1} << log2) - 1) >> log2;
}

/// A lane's part of a unit.
struct LanePart {
  std::int64_t chunk = 0;   ///< may be beyond the last chunk; `length` is 0 then
  std::int64_t begin = 0;   ///< the chunk's first element
  std::int32_t length = 0;  ///< its elements
  std::int32_t member = 0;  ///< the lane's number among those of the chunk
};

constexpr LanePart lane_part(std::int64_t unit, std::int32_t lane, std::int32_t team_lanes_log2,
                             std::int32_t lanes_log2, std::int32_t chunk, std::int64_t count) {
  LanePart part;
  part.chunk = (unit << (team_lanes_log2 - lanes_log2)) + (lane >> lanes_log2);
  part.begin = part.chunk * chunk;
  const std::int64_t left = count - part.begin;
  part.length = left >= chunk ? chunk : (left > 0 ? static_cast<std::int32_t>(left) : 0);
  part.member = lane & ((1 << lanes_log2) - 1);
  return part;
}

/// A chunk's elements as vectors and edges.
struct Run {
  std::int32_t head = 0;  ///< edges before the first vector
  std::int32_t vectors = 0;
  std::int32_t edges = 0;

  /// Of `length` elements, the first of which lies `shift` elements behind a vector's begin.
  constexpr Run(std::int32_t length, std::int32_t shift) {
    head = (kVectorElements - shift) % kVectorElements;
    if (head > length) head = length;
    vectors = (length - head) / kVectorElements;
    edges = length - vectors * kVectorElements;
  }
  /// Place in the chunk of a vector's first element.
  constexpr std::int32_t vector_place(std::int32_t vector) const {
    return head + vector * kVectorElements;
  }
  constexpr std::int32_t edge_place(std::int32_t edge) const {
    return edge < head ? edge : edge + vectors * kVectorElements;
  }
  /// The number of the lane that works on the element at `place`, of 2^lanes_log2.
  constexpr std::int32_t member_at(std::int32_t place, std::int32_t lanes_log2) const {
    const std::int32_t vector = (place - head) / kVectorElements;
    const bool is_edge = place < head || vector >= vectors;
    const std::int32_t edge = place < head ? place : place - vectors * kVectorElements;
    return (is_edge ? edge : vector) & ((1 << lanes_log2) - 1);
  }
};

/// Elements between the address and the vector it lies in.
constexpr std::int32_t shift_of(std::uint64_t address, std::int32_t element_bytes) {
  return static_cast<std::int32_t>(address / static_cast<std::uint64_t>(element_bytes) %
                                   kVectorElements);
}

/// A tensor's element `place`: its chunk, and its place there.
struct ChunkPlace {
  std::int64_t chunk = 0;
  std::int32_t place = 0;
};

/// The same by a division, which takes a GPU a hundred instructions, without it, for places below
/// 2^50; `inverse` is 1.0 / length.
constexpr ChunkPlace chunk_place(std::int64_t place, std::int32_t length, double inverse) {
  const auto guess = static_cast<std::int64_t>(static_cast<double>(place) * inverse);
  const std::int64_t left = place - guess * length;
  if (left < 0) return {guess - 1, static_cast<std::int32_t>(left + length)};
  if (left >= length) return {guess + 1, static_cast<std::int32_t>(left - length)};
  return {guess, static_cast<std::int32_t>(left)};
}

/// place / chunk without a division, for places below 2^18; `inverse` is 1.0f / chunk.
constexpr std::int32_t chunk_at(std::int32_t place, float inverse) {
  // Half an element inside, so that rounding does not lead out of the chunk.
  return static_cast<std::int32_t>((static_cast<float>(place) + 0.5f) * inverse);
}

}  // namespace scalecom::kernels::cuda
