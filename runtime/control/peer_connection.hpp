#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/control/control_channel.hpp"
#include "transport/socket/sockets.hpp"

namespace scalecom {

/// One authenticated connection: frames of a 4-byte length (little endian) and that many bytes. A
/// length of kGoodbye is the orderly end.
class PeerConnection {
 public:
  explicit PeerConnection(Socket socket) : socket_(std::move(socket)) {}

  int descriptor() const noexcept { return socket_.descriptor(); }
  bool is_open() const noexcept { return socket_.is_open(); }
  /// Bytes wait for the socket to take them.
  bool has_backlog() const noexcept { return !outgoing_.empty(); }

  /// Sends at once what the socket takes and keeps the rest. A message that is too long, or that
  /// would be kept beside too many, breaks the connection off: receive() says so at its end.
  void send(const ControlMessage& message);
  void send_goodbye();
  void flush();

  struct Received {
    std::vector<ControlMessage> messages;
    std::optional<std::string> end;  ///< why the connection is over
  };
  /// Everything that can be read now. After an end there is nothing left but to close.
  Received receive();

  void close() { socket_ = Socket(); }

 private:
  void append(std::string_view bytes);
  void break_off(std::string cause);
  /// Bytes the socket took; all of them when it is broken.
  std::size_t send_some(std::string_view bytes);
  /// Moves whole frames from the buffer; the end's cause when one is broken or a goodbye.
  std::optional<std::string> take_frames(std::vector<ControlMessage>& messages);

  Socket socket_;
  std::string incoming_;
  std::string outgoing_;
  std::string cause_;  ///< of the end, where this end knows it; empty: the peer's
};

}  // namespace scalecom
