#include "runtime/control/frames.hpp"

#include <algorithm>
#include <cstdint>

#include "base/little_endian.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kLengthBytes = 8;

std::size_t length_of(std::string_view bytes) { return load_number<std::uint64_t>(bytes.data()); }

}  // namespace

std::size_t frame_bytes(std::string_view bytes) {
  if (bytes.size() < kLengthBytes) return kLengthBytes;
  return kLengthBytes + std::min(length_of(bytes), kFrameBytesMax + 1);
}

void append_frame(std::string& to, std::string_view bytes) {
  to += to_bytes<std::uint64_t>(bytes.size());
  to += bytes;
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
