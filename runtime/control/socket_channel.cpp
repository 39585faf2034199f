#include "runtime/control/socket_channel.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "base/error.hpp"
#include "runtime/control/peer_connection.hpp"
#include "transport/socket/sockets.hpp"

namespace scalecom {
namespace {

using Connections = std::map<int, PeerConnection>;

constexpr auto kFlushTime = std::chrono::seconds(1);

class SocketChannel final : public ControlChannel {
 public:
  explicit SocketChannel(Connections connections)
      : connections_(std::move(connections)), epoll_(make_epoll()) {
    for (auto& [peer, connection] : connections_) watch(peer, connection, EPOLL_CTL_ADD, EPOLLIN);
  }

  ~SocketChannel() override { SocketChannel::close(); }

  void send(int peer, ControlMessage message) override {
    const auto found = connections_.find(peer);
    SCALECOM_ASSERT(found != connections_.end(), fmt::format("rank {} is no neighbour", peer));
    PeerConnection& connection = found->second;
    if (!connection.is_open()) return;
    counters_.add_message(message.size() + 4);
    const bool had_backlog = connection.has_backlog();
    connection.send(message);
    if (connection.has_backlog() && !had_backlog) {
      watch(peer, connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
  }

  std::vector<ControlEvent> poll() override {
    std::vector<ControlEvent> events;
    std::array<epoll_event, 32> ready;
    const int count =
        epoll_wait(epoll_.descriptor(), ready.data(), static_cast<int>(ready.size()), 0);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = ready[static_cast<std::size_t>(i)];
      const int peer = static_cast<int>(event.data.u32);
      PeerConnection& connection = connections_.at(peer);
      if ((event.events & EPOLLOUT) != 0) {
        connection.flush();
        if (!connection.has_backlog()) watch(peer, connection, EPOLL_CTL_MOD, EPOLLIN);
      }
      PeerConnection::Received received = connection.receive();
      for (ControlMessage& message : received.messages) {
        events.push_back(ControlReceived{peer, std::move(message)});
      }
      if (!received.end) continue;
      // A forked process may still have the socket: closing alone would leave it in the epoll.
      epoll_ctl(epoll_.descriptor(), EPOLL_CTL_DEL, connection.descriptor(), nullptr);
      connection.close();
      events.push_back(ControlPeerLost{peer, *received.end});
    }
    return events;
  }

  int descriptor() const noexcept override { return epoll_.descriptor(); }
  TransportCounters counters() const noexcept override { return counters_; }

  void close() override {
    const Deadline deadline = Deadline::after(kFlushTime);
    for (auto& [peer, connection] : connections_) {
      if (connection.is_open()) connection.send_goodbye();
    }
    for (auto& [peer, connection] : connections_) {
      while (connection.is_open() && connection.has_backlog() && !deadline.has_passed()) {
        pollfd descriptor{connection.descriptor(), POLLOUT, 0};
        if (::poll(&descriptor, 1, 50) > 0) connection.flush();
      }
      connection.close();
    }
  }

 private:
  void watch(int peer, const PeerConnection& connection, int operation, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.u32 = static_cast<std::uint32_t>(peer);
    if (epoll_ctl(epoll_.descriptor(), operation, connection.descriptor(), &event) != 0) {
      throw Error(StatusCode::internal,
                  std::string("watching a control connection failed: ") + std::strerror(errno));
    }
  }

  Connections connections_;
  OpenFile epoll_;
  TransportCounters counters_;
};

}  // namespace

std::unique_ptr<ControlChannel> connect_control_channel(Bootstrap& bootstrap,
                                                        const std::vector<HostFacts>& facts,
                                                        const ControlOptions& options) {
  const Links links = Links::in_tree(bootstrap.rank(), bootstrap.size());
  Connections connections;
  for (auto& [peer, socket] : connect_neighbours(bootstrap, links, facts, options)) {
    connections.emplace(peer, PeerConnection(std::move(socket)));
  }
  return std::make_unique<SocketChannel>(std::move(connections));
}

}  // namespace scalecom
