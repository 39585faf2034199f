#include "runtime/control/peer_connection.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kHeaderBytes = 4;
constexpr std::uint32_t kGoodbye = 0xffffffffu;
constexpr std::uint32_t kFrameBytesMax = 64u << 20;

std::array<char, kHeaderBytes> header_of(std::uint32_t length) {
  std::array<char, kHeaderBytes> header{};
  for (std::size_t i = 0; i < kHeaderBytes; ++i) header[i] = static_cast<char>(length >> (8 * i));
  return header;
}

std::uint32_t length_of(std::string_view header) {
  std::uint32_t length = 0;
  for (std::size_t i = 0; i < kHeaderBytes; ++i) {
    length |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(header[i])) << (8 * i);
  }
  return length;
}

}  // namespace

void PeerConnection::send(const ControlMessage& message) {
  SCALECOM_ASSERT(message.size() <= kFrameBytesMax,
                  std::to_string(message.size()) + " bytes in one control message");
  const auto header = header_of(static_cast<std::uint32_t>(message.size()));
  std::string frame(header.data(), header.size());
  frame += message;
  append(frame);
}

void PeerConnection::send_goodbye() {
  const auto header = header_of(kGoodbye);
  append({header.data(), header.size()});
}

void PeerConnection::append(std::string_view bytes) {
  if (outgoing_.empty()) {
    const auto sent = ::send(descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  outgoing_.append(bytes);
}

// A broken connection shows in receive(), which also has what the peer sent before.
void PeerConnection::flush() {
  while (!outgoing_.empty()) {
    const auto sent = ::send(descriptor(), outgoing_.data(), outgoing_.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    outgoing_.erase(0, static_cast<std::size_t>(sent));
  }
}

PeerConnection::Received PeerConnection::receive() {
  Received received;
  std::array<char, 65536> buffer;
  while (!received.end) {
    const auto got = recv(descriptor(), buffer.data(), buffer.size(), 0);
    if (got > 0) {
      incoming_.append(buffer.data(), static_cast<std::size_t>(got));
      received.end = take_frames(received.messages);
      if (static_cast<std::size_t>(got) < buffer.size()) break;
    } else if (got == 0) {
      received.end = "connection closed";
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno == ETIMEDOUT) {
      received.end = "no answer";
    } else if (errno != EINTR) {
      received.end = std::strerror(errno);
    }
  }
  if (received.end) close();
  return received;
}

std::optional<std::string> PeerConnection::take_frames(std::vector<ControlMessage>& messages) {
  std::size_t begin = 0;
  std::optional<std::string> end;
  while (incoming_.size() - begin >= kHeaderBytes) {
    const std::uint32_t length = length_of(std::string_view(incoming_).substr(begin));
    if (length == kGoodbye) {
      end = "it left the session";
      break;
    }
    if (length > kFrameBytesMax) {
      end = "a control message of " + std::to_string(length) + " bytes";
      break;
    }
    if (incoming_.size() - begin - kHeaderBytes < length) break;
    messages.push_back(incoming_.substr(begin + kHeaderBytes, length));
    begin += kHeaderBytes + length;
  }
  incoming_.erase(0, begin);
  return end;
}

}  // namespace scalecom
