#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>

#include "collective/group.hpp"

namespace scalecom {

/// Bytes of one message on the way. A multiple of every element size. Windows of such messages
/// fill a link in both directions, where one large exchange reaches half of it.
inline constexpr std::size_t kChunkBytes = 256 * 1024;
/// Messages of one transfer that are outstanding at once.
inline constexpr std::size_t kWindow = 4;

/// A vector on its way to or from one peer, cut into chunks.
struct Transfer {
  enum class Direction { send, receive };
  Direction direction = Direction::send;
  int peer = 0;
  std::span<std::byte> bytes;  ///< only read when sending
  /// receive: called for each chunk in order, with its place in `bytes`.
  std::function<void(std::size_t offset, std::size_t size)> on_chunk = {};
  int tag = 0;
};

inline Transfer send_to(int peer, std::span<std::byte> bytes) {
  return {Transfer::Direction::send, peer, bytes};
}
inline Transfer receive_from(int peer, std::span<std::byte> bytes,
                             std::function<void(std::size_t, std::size_t)> on_chunk = {}) {
  return {Transfer::Direction::receive, peer, bytes, std::move(on_chunk)};
}

/// Carries out all transfers at once, each with its own window. Both ends cut a vector of one size
/// into the same chunks; nothing travels for an empty one. `what` names the work in errors.
void run_transfers(const Group& group, std::span<Transfer> transfers, std::string_view what);

}  // namespace scalecom
