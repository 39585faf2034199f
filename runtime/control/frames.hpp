#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "transport/socket/sockets.hpp"

namespace scalecom {

/// A frame is 8 bytes of length, little endian, and that many bytes, at most kFrameBytesMax.
inline constexpr std::size_t kFrameBytesMax = std::size_t{256} << 20;

/// Bytes of the whole frame that begins with `bytes`; of its length alone where that is not whole
/// yet. Of a longer frame than is allowed: more than that.
std::size_t frame_bytes(std::string_view bytes);
void append_frame(std::string& to, std::string_view bytes);
/// Removes the first frame from `from`. Throws Error(internal) where there is no whole one.
std::string take_frame(std::string_view& from);

/// False when the peer is gone or the deadline passes.
bool send_frame(const Socket& socket, std::string_view bytes, Deadline deadline);
/// Nothing when the peer is gone, sends more than allowed, or the deadline passes.
std::optional<std::string> receive_frame(const Socket& socket, Deadline deadline,
                                         std::size_t bytes_max = kFrameBytesMax);

}  // namespace scalecom
