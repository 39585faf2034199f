#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/deadline.hpp"
#include "runtime/control/handshake.hpp"
#include "transport/socket/sockets.hpp"

namespace scalecom {

/// The parent's side of new connections: accepts children and strangers alike, and serves them
/// beside each other. Who answers the challenge wrongly, or says nothing for 5 s, is dropped
/// without holding up the others. Up to 256 are served at a time, fewer where descriptors are
/// short; others wait in the order in which they came, and who is not done within 1 s then makes
/// room for them.
class Reception {
 public:
  /// The listeners outlive it. With `hello_bytes_max` each says something when it has got the
  /// proof: a frame of up to so many bytes.
  Reception(const std::vector<Socket>& listeners, Handshake handshake,
            std::size_t hello_bytes_max = 0)
      : listeners_(listeners),
        handshake_(std::move(handshake)),
        hello_bytes_max_(hello_bytes_max) {}

  /// Who has given and got a proof. The same rank may come again, and any number may be its own:
  /// whom to keep is the caller's decision.
  struct Arrival {
    int rank = 0;
    Socket socket;
    std::string hello;
  };
  /// Waits up to 0.1 s for news. Throws Error(unavailable) when somebody came and there is no
  /// descriptor for even one.
  std::vector<Arrival> wait();

 private:
  struct Visitor {
    Socket socket;
    TimePoint came;
    std::string challenge;
    std::optional<int> rank;  ///< proved
    std::string received;     ///< the answer; then what it says
  };
  enum class Reading { unfinished, refused, finished };

  bool is_full() const noexcept { return visitors_.size() >= visitors_max_; }
  void wait_for_news() const;
  void welcome(const Socket& listener);
  Reading read(Visitor& visitor) const;
  bool check(Visitor& visitor) const;

  const std::vector<Socket>& listeners_;
  const Handshake handshake_;
  const std::size_t hello_bytes_max_;
  std::size_t visitors_max_ = 256;
  std::vector<Visitor> visitors_;  ///< the oldest first
};

/// The child's side, on a new connection: false when the parent does not prove in time that it
/// knows the key, or drops this rank.
bool introduce_to_parent(const Socket& socket, const Handshake& handshake, int rank,
                         Deadline deadline);

}  // namespace scalecom
