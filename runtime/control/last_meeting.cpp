#include "runtime/control/last_meeting.hpp"

#include <fmt/format.h>

namespace scalecom {

// The negotiation has no empty messages.
void LastMeeting::take(const ControlEvent& event) {
  if (const auto* lost = std::get_if<ControlPeerLost>(&event)) {
    if (loss_) return;
    loss_ = Error(StatusCode::rank_lost, fmt::format("rank {}: {}", lost->peer, lost->cause));
    return;
  }
  const auto& received = std::get<ControlReceived>(event);
  if (!received.message.empty()) return;
  if (received.from == tree_.parent) {
    have_all_ended_ = true;
  } else {
    ++ended_children_;
  }
}

// Up the tree who has ended, down that all have.
void LastMeeting::meet(ControlChannel& channel, const WaitContext& context) {
  const auto wait_until = [&](const auto& is_enough) {
    WaitLoop loop(context);
    while (!is_enough()) {
      for (const ControlEvent& event : channel.poll()) take(event);
      if (is_enough()) return;
      if (loss_) throw *loss_;
      loop.pause("the end of the other ranks");
    }
  };
  wait_until([this] { return ended_children_ == tree_.children.size(); });
  if (tree_.parent >= 0) {
    channel.send(tree_.parent, {});
    wait_until([this] { return have_all_ended_; });
  }
  for (const int child : tree_.children) channel.send(child, {});
}

}  // namespace scalecom
