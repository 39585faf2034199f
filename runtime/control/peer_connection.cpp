#include "runtime/control/peer_connection.hpp"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/little_endian.hpp"

namespace scalecom {
namespace {

constexpr std::uint32_t kGoodbye = 0xffffffffu;
constexpr std::size_t kHeaderBytes = sizeof kGoodbye;
constexpr std::uint32_t kFrameBytesMax = 64u << 20;
constexpr const char* kClosed = "connection closed";
constexpr const char* kNoAnswer = "no answer";

}  // namespace

void PeerConnection::send(const ControlMessage& message) {
  if (message.size() > kFrameBytesMax) {
    return break_off(fmt::format("a control message for it has {} bytes, more than the {} allowed",
                                 message.size(), kFrameBytesMax));
  }
  append(to_bytes(static_cast<std::uint32_t>(message.size())) + message);
  if (outgoing_.size() <= kControlBacklogMax) return;
  break_off(
      fmt::format("it does not read its control messages: {} bytes wait for it", outgoing_.size()));
}

void PeerConnection::break_off(std::string cause) {
  outgoing_.clear();
  cause_ = std::move(cause);
  shutdown(descriptor(), SHUT_RDWR);
}

void PeerConnection::send_goodbye() { append(to_bytes(kGoodbye)); }

void PeerConnection::append(std::string_view bytes) {
  if (outgoing_.empty()) bytes.remove_prefix(send_some(bytes));
  outgoing_.append(bytes);
}

void PeerConnection::flush() {
  while (!outgoing_.empty()) {
    const std::size_t sent = send_some(outgoing_);
    if (sent == 0) return;
    outgoing_.erase(0, sent);
  }
}

// On a broken connection the bytes count as sent: nobody will take them, and kept they would hold
// up the orderly end. The break itself shows in receive(), behind what the peer sent before.
std::size_t PeerConnection::send_some(std::string_view bytes) {
  while (true) {
    const auto sent = ::send(descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno == EINTR) continue;
    // The socket tells an error once, here or in receive().
    if (errno == ETIMEDOUT) cause_ = kNoAnswer;
    return bytes.size();
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
      received.end = kClosed;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno == ETIMEDOUT) {
      received.end = kNoAnswer;
    } else if (errno != EINTR) {
      received.end = std::strerror(errno);
    }
  }
  if (received.end && !cause_.empty()) received.end = cause_;
  return received;
}

std::optional<std::string> PeerConnection::take_frames(std::vector<ControlMessage>& messages) {
  std::size_t begin = 0;
  std::optional<std::string> end;
  while (incoming_.size() - begin >= kHeaderBytes) {
    const std::uint32_t length = load_number<std::uint32_t>(incoming_.data() + begin);
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
