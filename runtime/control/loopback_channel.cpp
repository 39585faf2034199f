#include "runtime/control/loopback_channel.hpp"

#include <fmt/format.h>

#include <mutex>
#include <utility>
#include <vector>

#include "runtime/control/tree.hpp"
#include "runtime/wake_up.hpp"

namespace scalecom {

/// One inbox per rank. Any thread.
class LoopbackControlHub {
 public:
  explicit LoopbackControlHub(int size) : inboxes_(static_cast<std::size_t>(size)) {}

  void send(int from, int to, ControlMessage message) {
    const std::lock_guard lock(mutex_);
    if (inbox(from).is_lost) return;
    Inbox& target = inbox(to);
    if (target.is_lost || target.is_closed) return;
    target.backlog_bytes += message.size();
    if (target.backlog_bytes <= kControlBacklogMax) {
      return put(target, ControlReceived{from, std::move(message)});
    }
    target.is_closed = true;
    put(inbox(from),
        ControlPeerLost{to, fmt::format("it does not read its control messages: {} bytes wait",
                                        target.backlog_bytes)});
  }

  std::vector<ControlEvent> take(int rank) {
    const std::lock_guard lock(mutex_);
    Inbox& mine = inbox(rank);
    if (mine.events.empty()) return {};
    mine.wake_up.clear();
    mine.backlog_bytes = 0;
    return std::exchange(mine.events, {});
  }

  int descriptor(int rank) { return inbox(rank).wake_up.descriptor(); }

  // As with sockets, the ends of the lost rank's connections hear of it: its neighbours, and it.
  void lose(int rank) {
    const std::lock_guard lock(mutex_);
    if (std::exchange(inbox(rank).is_lost, true)) return;
    const ControlTree tree = ControlTree::make(rank, static_cast<int>(inboxes_.size()));
    std::vector<int> neighbours = tree.children;
    if (tree.parent >= 0) neighbours.push_back(tree.parent);
    for (const int neighbour : neighbours) {
      put(inbox(neighbour), ControlPeerLost{rank, "connection closed"});
      put(inbox(rank), ControlPeerLost{neighbour, "connection closed"});
    }
  }

  void close(int rank) {
    const std::lock_guard lock(mutex_);
    inbox(rank).is_closed = true;
  }

 private:
  struct Inbox {
    WakeUp wake_up;
    std::vector<ControlEvent> events;
    std::size_t backlog_bytes = 0;
    bool is_lost = false;
    bool is_closed = false;
  };

  Inbox& inbox(int rank) { return inboxes_[static_cast<std::size_t>(rank)]; }

  static void put(Inbox& target, ControlEvent event) {
    target.events.push_back(std::move(event));
    target.wake_up.signal();
  }

  std::mutex mutex_;
  std::vector<Inbox> inboxes_;  // guarded by mutex_, but for the descriptors
};

namespace {

class LoopbackChannel final : public ControlChannel {
 public:
  LoopbackChannel(std::shared_ptr<LoopbackControlHub> hub, int rank)
      : hub_(std::move(hub)), rank_(rank) {}
  ~LoopbackChannel() override { close(); }

  void send(int peer, ControlMessage message) override {
    counters_.add_message(message.size());
    hub_->send(rank_, peer, std::move(message));
  }
  std::vector<ControlEvent> poll() override { return hub_->take(rank_); }
  int descriptor() const noexcept override { return hub_->descriptor(rank_); }
  TransportCounters counters() const noexcept override { return counters_; }
  void close() override { hub_->close(rank_); }

 private:
  std::shared_ptr<LoopbackControlHub> hub_;
  const int rank_;
  TransportCounters counters_;
};

}  // namespace

LoopbackControlWorld::LoopbackControlWorld(int size)
    : hub_(std::make_shared<LoopbackControlHub>(size)) {}
LoopbackControlWorld::~LoopbackControlWorld() = default;

std::unique_ptr<ControlChannel> LoopbackControlWorld::make_channel(int rank) {
  return std::make_unique<LoopbackChannel>(hub_, rank);
}

void LoopbackControlWorld::lose(int rank) { hub_->lose(rank); }

}  // namespace scalecom
