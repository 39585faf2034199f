#pragma once

#include <memory>

#include "runtime/control/control_channel.hpp"

namespace scalecom {

class LoopbackControlHub;

/// Control channels of `size` ranks in one process: for a job of one rank, and for tests of whole
/// sessions with threads as ranks.
class LoopbackControlWorld {
 public:
  explicit LoopbackControlWorld(int size);
  ~LoopbackControlWorld();

  /// Once per rank. The channel may outlive the world.
  std::unique_ptr<ControlChannel> make_channel(int rank);

  /// The rank's connections break: its neighbours in the control tree hear of it, after its last
  /// message. Any thread.
  void lose(int rank);

 private:
  std::shared_ptr<LoopbackControlHub> hub_;
};

}  // namespace scalecom
