#pragma once

#include <poll.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/deadline.hpp"
#include "runtime/control/handshake.hpp"
#include "transport/socket/sockets.hpp"

namespace scalecom {

/// The parent's side of new connections: accepts children and strangers alike, and serves them
/// beside each other, those of every listener in turn. Who answers the challenge wrongly, or says
/// nothing for 5 s, is dropped without holding up the others. Up to 256 are served at a time, fewer
/// while descriptors are short; others wait in the order in which they came, and who is not done
/// within 1 s then makes room for them. Half of the places at most are for one address, or for all
/// other users of this host: who comes beyond that is dropped, and may try again.
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
    std::string origin;  ///< see origin_of()
    TimePoint came;
    std::string challenge;
    std::optional<int> rank;  ///< proved
    std::string received;     ///< the answer; then what it says
  };
  enum class Reading { unfinished, refused, finished };
  static constexpr std::size_t kVisitorsMax = 256;

  bool is_full() const noexcept { return visitors_.size() >= visitors_max_; }
  /// Of the origin that has half of the places.
  bool is_crowded(const std::string& origin) const;
  bool has_overstayed(const Visitor& visitor) const;
  /// What poll() says of the listeners, and behind them of the visitors.
  std::vector<pollfd> wait_for_news() const;
  /// `is_first`: nobody has arrived in this turn, who would be lost by a throw.
  void welcome(const Socket& listener, bool is_first);
  Reading read(Visitor& visitor) const;
  bool check(Visitor& visitor) const;

  const std::vector<Socket>& listeners_;
  const Handshake handshake_;
  const std::size_t hello_bytes_max_;
  std::size_t visitors_max_ = kVisitorsMax;
  std::vector<Visitor> visitors_;  ///< the oldest first
};

/// The child's side, on a new connection: false when the parent does not prove in time that it
/// knows the key, or drops this rank.
bool introduce_to_parent(const Socket& socket, const Handshake& handshake, int rank,
                         Deadline deadline);

}  // namespace scalecom
