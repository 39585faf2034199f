#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/wait.hpp"

namespace scalecom {

/// A posted send or receive. Null when default-constructed and after completion.
struct TransportRequest {
  std::uint64_t id = 0;
  bool is_null() const noexcept { return id == 0; }
};

/// What was handed over to be sent; what the medium puts before each message is not included.
struct TransportCounters {
  std::int64_t bytes_sent = 0;
  std::int64_t messages_sent = 0;

  void add_message(std::size_t bytes) noexcept {
    bytes_sent += static_cast<std::int64_t>(bytes);
    messages_sent += 1;
  }
  TransportCounters& operator+=(const TransportCounters& more) noexcept {
    bytes_sent += more.bytes_sent;
    messages_sent += more.messages_sent;
    return *this;
  }
};

/// Bytes between the ranks of one group. Confined to one thread.
///
/// Messages of one (sender, receiver, tag) match receives in the order of posting. A receive's span
/// has exactly the size of the message it matches. Spans stay valid and untouched until their
/// request completes. Any number of posts may be outstanding; posting never waits for the peer.
/// Sending to oneself is allowed. Tags are 0 to 32,767. A message has at most 2^31 - 1 bytes.
///
/// Failures throw Error: rank_lost when the medium reports it, internal for a broken contract.
class Transport {
 public:
  virtual ~Transport() = default;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  /// "loopback", "mpi", "sockets".
  virtual std::string_view name() const noexcept = 0;

  virtual TransportRequest post_send(std::span<const std::byte> bytes, int peer, int tag) = 0;
  virtual TransportRequest post_receive(std::span<std::byte> bytes, int peer, int tag) = 0;

  /// Makes progress; true when `request` is complete, which then becomes null. True for null.
  virtual bool test(TransportRequest& request) = 0;

  /// Gives up everything outstanding, after a failure: when it returns, no span of a post is read
  /// or written any more, and later posts throw. Never blocks on a peer.
  virtual void cancel_all() noexcept = 0;

  virtual TransportCounters counters() const noexcept = 0;
};

/// Waits for one request with the discipline of WaitLoop. `what` appears in the time-out's message.
void wait(Transport& transport, TransportRequest& request, const WaitContext& context,
          std::string_view what);
/// Waits for all of them.
void wait_all(Transport& transport, std::span<TransportRequest> requests,
              const WaitContext& context, std::string_view what);

}  // namespace scalecom
