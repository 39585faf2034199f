// What the coordinator tells the timeline.
#include <utility>

#include "runtime/coordinator.hpp"

namespace scalecom {

// What is void is agreed on again.
void Coordinator::tell_times(const NegotiationEvent& event) {
  const TimePoint now = Clock::now();
  const auto agree = [&](const std::string& name) {
    const auto found = pending_.find(name);
    if (found == pending_.end())
      return timeline_.forget(name);  // Joined: it takes part with zeros.
    timeline_.agree(name, found->second.times, found->second.signature.kind, now);
  };
  if (const auto* agreement = std::get_if<Agreement>(&event)) {
    timeline_.begin_cycle(now);
    if (agreement->is_void) return;
    for (const AgreedTensor& tensor : agreement->tensors) agree(tensor.name);
  } else if (const auto* mismatch = std::get_if<Mismatch>(&event)) {
    agree(mismatch->name);
  } else if (std::holds_alternative<Joined>(event)) {
    agree(kJoinName);
  }
}

void Coordinator::start_timeline(std::unique_ptr<TimelineWriter> writer, bool has_cycles) {
  timeline_.start(std::move(writer), has_cycles);
  negotiation_.set_arrivals(&timeline_);
}

std::unique_ptr<TimelineWriter> Coordinator::stop_timeline() {
  negotiation_.set_arrivals(nullptr);
  return timeline_.stop();
}

// What the session's end has found in its negotiation.
void Coordinator::tell_unfinished() {
  const TimePoint now = Clock::now();
  for (auto& [name, tensor] : pending_) {
    if (tensor.times.agreed != TimePoint{}) continue;
    timeline_.agree(name, tensor.times, tensor.signature.kind, now);
  }
}

}  // namespace scalecom
