#pragma once

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

#include "transport/transport.hpp"

namespace scalecom {

/// A message of the negotiation, opaque to the channel.
using ControlMessage = std::string;

struct ControlReceived {
  int from = 0;
  ControlMessage message;
};

/// A connected peer's process ended or cannot be reached any more.
struct ControlPeerLost {
  int peer = 0;
  std::string cause;  ///< "connection closed", "no answer for 5 s", ...
};

using ControlEvent = std::variant<ControlReceived, ControlPeerLost>;

/// Small ordered messages between this rank and its neighbours in the control tree. Confined to the
/// coordinator's thread. Never blocks.
class ControlChannel {
 public:
  virtual ~ControlChannel() = default;

  /// Queues a message for a neighbour and sends what the medium takes. Messages to a lost peer are
  /// dropped, and a peer for which more than kControlBacklogMax bytes wait is lost.
  virtual void send(int peer, ControlMessage message) = 0;

  /// Everything that has arrived, in order per peer; flushes what could not be sent before. Each
  /// lost peer is reported once, after its last message.
  virtual std::vector<ControlEvent> poll() = 0;

  /// A file descriptor that polls readable when poll() has something to do.
  virtual int descriptor() const noexcept = 0;

  virtual TransportCounters counters() const noexcept = 0;

  /// Flushes what is queued within a short bounded time, then closes in an orderly way.
  virtual void close() = 0;
};

inline constexpr std::size_t kControlBacklogMax = 256u << 20;

}  // namespace scalecom
