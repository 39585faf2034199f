#pragma once

#include <string>
#include <vector>

#include "runtime/control/handshake.hpp"
#include "transport/socket/sockets.hpp"

namespace scalecom {

/// The parent's side of new connections: accepts children and strangers alike; who answers the
/// challenge wrongly, or not at all, is dropped without holding up the others.
class Reception {
 public:
  /// The listeners outlive it.
  Reception(const std::vector<Socket>& listeners, Handshake handshake)
      : listeners_(listeners), handshake_(std::move(handshake)) {}

  /// Who has given and got a proof. The same rank may come again, and any number may be its own:
  /// whom to keep is the caller's decision.
  struct Arrival {
    int rank = 0;
    Socket socket;
  };
  /// Waits up to 0.1 s for news.
  std::vector<Arrival> wait();

 private:
  struct Visitor {
    Socket socket;
    std::string challenge;
    std::string answer;
  };
  enum class Reading { unfinished, refused, proved };

  void wait_for_news() const;
  void welcome(const Socket& listener);
  Reading read_answer(Visitor& visitor) const;

  const std::vector<Socket>& listeners_;
  const Handshake handshake_;
  std::vector<Visitor> visitors_;
};

/// The child's side, on a new connection: false when the parent does not prove in time that it
/// knows the key, or drops this rank.
bool introduce_to_parent(const Socket& socket, const Handshake& handshake, int rank,
                         Deadline deadline);

}  // namespace scalecom
