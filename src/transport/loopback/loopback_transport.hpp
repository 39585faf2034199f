#pragma once

#include <memory>

#include "transport/transport.hpp"

namespace scalecom {

class LoopbackHub;

/// `size` ranks in one process, each used by a thread of its own: the transport of a job of one
/// rank, and of the tests. Bytes go straight from the sender's span to the receiver's; whoever
/// posts second copies.
class LoopbackWorld {
 public:
  explicit LoopbackWorld(int size);
  ~LoopbackWorld();

  /// Once per rank. The transport may outlive the world.
  std::unique_ptr<Transport> make_transport(int rank);

  /// The rank is gone: every pending and later request with it, on any rank, throws rank_lost.
  /// Any thread. When it returns, no span of that rank is touched any more.
  void lose(int rank);

 private:
  std::shared_ptr<LoopbackHub> hub_;
};

}  // namespace scalecom
