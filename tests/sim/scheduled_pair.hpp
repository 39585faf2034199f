#pragma once

#include <string>

#include "tests/sim/small_world.hpp"
#include "tests/support/catch.hpp"

namespace scalecom::sim {

/// Rank 0 and a leaf, which run a schedule of the tensors a and b, one after the other; eight
/// agreements came before it. The test plays the channel and the execution.
struct ScheduledPair {
  TimePoint now{std::chrono::seconds(1000)};
  Negotiation root{{.rank = 0, .size = 2, .cycle_time_ms = 0}};
  Negotiation leaf;
  int frames_up = 0;
  int frames_down = 0;

  explicit ScheduledPair(NegotiationOptions options = {.cycle_time_ms = 0})
      : leaf([&] {
          options.rank = 1;
          options.size = 2;
          return options;
        }()) {
    for (int step = 0; step < 4; ++step) {
      for (const char* name : {"a", "b"}) {
        for (Negotiation* node : {&leaf, &root}) {
          node->set_backlog(0);
          node->submit({name, all_reduce()}, now);
        }
        exchange();
        leaf.take_events();
        root.take_events();
      }
    }
    leaf.set_backlog(0);
    root.set_backlog(0);
    REQUIRE(leaf.take_outgoing().empty());
  }

  void exchange() {
    send_up();
    send_down();
  }
  void send_up() {
    for (const auto& up : leaf.take_outgoing()) {
      root.receive(1, up.message, now);
      ++frames_up;
    }
  }
  void send_down() {
    for (const auto& down : root.take_outgoing()) {
      leaf.receive(0, down.message, now);
      ++frames_down;
    }
  }

  /// Agreements that the leaf takes now.
  std::size_t agreements() {
    leaf.advance(now);
    std::size_t count = 0;
    for (const auto& event : leaf.take_events()) count += std::holds_alternative<Agreement>(event);
    return count;
  }
  /// What the leaf says to rank 0 now; empty: nothing.
  std::string left() {
    leaf.advance(now);
    const auto outgoing = leaf.take_outgoing();
    return outgoing.empty() ? "" : outgoing[0].message;
  }
};

}  // namespace scalecom::sim
