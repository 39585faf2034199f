#include "runtime/control/frames.hpp"

#include <algorithm>
#include <cstdint>

#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kLengthBytes = 8;

std::size_t length_of(std::string_view bytes) {
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(bytes[i])) << (8 * i);
  }
  return static_cast<std::size_t>(length);
}

}  // namespace

std::size_t frame_bytes(std::string_view bytes) {
  if (bytes.size() < kLengthBytes) return kLengthBytes;
  return kLengthBytes + std::min(length_of(bytes), kFrameBytesMax + 1);
}

void append_frame(std::string& to, std::string_view bytes) {
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    to.push_back(static_cast<char>(static_cast<std::uint64_t>(bytes.size()) >> (8 * i)));
  }
  to.append(bytes);
}

std::string take_frame(std::string_view& from) {
  if (from.size() < kLengthBytes || from.size() - kLengthBytes < length_of(from)) {
    throw Error(StatusCode::internal, "a frame is cut short");
  }
  const std::size_t length = length_of(from);
  std::string frame(from.substr(kLengthBytes, length));
  from.remove_prefix(kLengthBytes + length);
  return frame;
}

bool send_frame(const Socket& socket, std::string_view bytes, Deadline deadline) {
  std::string frame;
  append_frame(frame, bytes);
  return send_all(socket, frame, deadline);
}

std::optional<std::string> receive_frame(const Socket& socket, Deadline deadline,
                                         std::size_t bytes_max) {
  const std::string header = receive_exactly(socket, kLengthBytes, deadline);
  if (header.empty() || length_of(header) > bytes_max) return std::nullopt;
  if (length_of(header) == 0) return "";
  std::string bytes = receive_exactly(socket, length_of(header), deadline);
  if (bytes.empty()) return std::nullopt;
  return bytes;
}

}  // namespace scalecom
