#pragma once

#include <cstddef>
#include <optional>

#include "base/wait.hpp"
#include "runtime/control/control_channel.hpp"
#include "runtime/control/tree.hpp"
#include "scalecom/status.hpp"

namespace scalecom {

/// The ranks of a session that was shut down meet once more, over their control tree: each says,
/// behind its last message, that it has ended, and hears when all have. A rank that was lost by
/// then is known to all that meet; where one does not come, none have met.
class LastMeeting {
 public:
  /// Requires 0 <= rank < size.
  LastMeeting(int rank, int size) : tree_(ControlTree::make(rank, size)) {}

  /// Of all that the channel gives, from the session's beginning on: others may end before.
  void take(const ControlEvent& event);

  /// This rank has ended and sends nothing else. Returns when all have. Throws Error(timed_out), or
  /// Error(rank_lost) with the neighbour that is lost or has given up; the caller then closes the
  /// channel, which tells its other neighbours.
  void meet(ControlChannel& channel, const WaitContext& context);

 private:
  const ControlTree tree_;
  std::size_t ended_children_ = 0;  ///< of which all below have ended, too
  bool have_all_ended_ = false;     ///< by the parent's word
  std::optional<Error> loss_;       ///< of a neighbour, the first
};

}  // namespace scalecom
