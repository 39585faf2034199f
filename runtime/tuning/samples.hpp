#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "collective/tuning.hpp"

namespace scalecom {

/// What one rank measured, by name. Every figure is a time in seconds, so that of several ranks the
/// largest is the slowest rank's, which is the one that all wait for.
using Samples = std::map<std::string, double>;

namespace samples {
inline constexpr const char* kMessage = "message_s";           ///< a few bytes, one way
inline constexpr const char* kMessageByte = "message_byte_s";  ///< while as many come back
inline constexpr const char* kReducedByte = "reduced_byte_s";  ///< by the kernels
inline constexpr const char* kInside = "inside_s";             ///< flat, a few bytes
inline constexpr const char* kInsideByte = "inside_byte_s";    ///< read by each rank
std::string swept(std::int64_t chunk);                         ///< an element of a gradient
std::string filled(std::int64_t chunk);                        ///< an element of a result
std::string flat(std::size_t bytes);                           ///< an all-reduce of `bytes`
std::string blocks(std::size_t bytes);                         ///< the same in blocks
std::string block(std::size_t block_bytes);                    ///< a long one, in such blocks
}  // namespace samples

/// Notes a time under a name. Of several the shortest counts: load only ever makes them longer.
void note(Samples& samples, const std::string& name, double time_s);

/// Of each figure the slowest rank's. Pure.
Samples slowest(std::span<const Samples> by_rank);

/// What the figures recommend; where one is missing, what `defaults` say. Pure: the same on all
/// ranks that have the same figures. `hosts` exchange messages, with slots of `slot_bytes`.
Tuning choose_tuning(const Tuning& defaults, const Samples& slowest, int hosts,
                     std::size_t slot_bytes);

}  // namespace scalecom
