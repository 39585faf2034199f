#include "transport/socket/socket_transport.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/little_endian.hpp"
#include "base/lost_rank.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kHeaderBytes = 12;
using Header = std::array<std::byte, kHeaderBytes>;

Header header_of(int tag, std::size_t bytes) {
  Header header{};
  store_number<std::int32_t>(header.data(), tag);
  store_number<std::uint64_t>(header.data() + sizeof(std::int32_t), bytes);
  return header;
}

std::pair<int, std::size_t> read_header(const Header& header) {
  return {load_number<std::int32_t>(header.data()),
          load_number<std::uint64_t>(header.data() + sizeof(std::int32_t))};
}

struct Outgoing {
  std::uint64_t request = 0;
  Header header{};
  std::span<const std::byte> bytes;
  std::size_t sent = 0;  // of header and bytes together
};

struct Receive {
  std::uint64_t request = 0;
  std::span<std::byte> bytes;
};

// A message that is being read: into a posted receive, or into memory of its own.
struct Arrival {
  int tag = 0;
  std::optional<Receive> receive;
  std::vector<std::byte> early;
  std::size_t size = 0;
  std::size_t got = 0;

  std::byte* target() { return receive ? receive->bytes.data() : early.data(); }
};

// What is under way with one peer.
struct Link {
  Socket socket;
  std::deque<Outgoing> outgoing;
  Header header{};
  std::size_t header_got = 0;
  std::optional<Arrival> arrival;
  std::map<int, std::deque<Receive>> receives;                 // by tag
  std::map<int, std::deque<std::vector<std::byte>>> messages;  // by tag: whole, not yet asked for
  std::size_t early_bytes = 0;
  // Tag and size of a message for which there is no room until it is asked for: nothing is read.
  std::optional<std::pair<int, std::size_t>> held;
  bool is_flushing = false;  // the epoll tells when the socket takes more
  std::optional<TimePoint> lost_at;
  std::string cause;
};

class SocketTransport final : public Transport {
 public:
  SocketTransport(int rank, int size, std::map<int, Socket> peers, std::size_t early_bytes_max)
      : rank_(rank),
        early_bytes_max_(early_bytes_max),
        links_(static_cast<std::size_t>(size)),
        epoll_(make_epoll()) {
    for (auto& [peer, socket] : peers) {
      let_peer_be_slow(socket);
      links_.at(static_cast<std::size_t>(peer)).socket = std::move(socket);
      watch(peer, EPOLL_CTL_ADD);
    }
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return static_cast<int>(links_.size()); }
  std::string_view name() const noexcept override { return "sockets"; }

  TransportRequest post_send(std::span<const std::byte> bytes, int peer, int tag) override {
    const TransportRequest request = add(peer);
    counters_.add_message(bytes.size());
    if (peer == rank_) {
      take_own(bytes, tag);
      pending_.erase(request.id);
      return {};
    }
    Link& link = link_of(peer);
    link.outgoing.push_back({request.id, header_of(tag, bytes.size()), bytes, 0});
    if (link.outgoing.size() == 1) flush(peer, link);
    return request;
  }

  TransportRequest post_receive(std::span<std::byte> bytes, int peer, int tag) override {
    const TransportRequest request = add(peer);
    Link& link = link_of(peer);
    auto& waiting = link.receives[tag];
    waiting.push_back({request.id, bytes});
    auto& messages = link.messages[tag];
    if (waiting.size() == 1 && !messages.empty()) {
      deliver(peer, link, tag, std::exchange(messages.front(), {}));
      messages.pop_front();
    }
    read_on(peer, link);
    return request;
  }

  bool test(TransportRequest& request) override {
    if (pending_.contains(request.id)) progress();
    const auto found = pending_.find(request.id);
    if (found == pending_.end()) {
      request = {};
      return true;
    }
    const int peer = found->second;
    const Link& link = link_of(peer);
    if (link.lost_at && Clock::now() - *link.lost_at >= kNewsTime) {
      pending_.erase(request.id);
      request = {};
      throw lost_rank(peer, link.cause);
    }
    return false;
  }

  // A message half sent is of no use to its receiver: the connections end with it.
  void cancel_all() noexcept override {
    is_cancelled_ = true;
    pending_.clear();
    for (Link& link : links_) link = Link{};
  }

  TransportCounters counters() const noexcept override { return counters_; }

 private:
  Link& link_of(int peer) { return links_[static_cast<std::size_t>(peer)]; }

  TransportRequest add(int peer) {
    if (is_cancelled_) throw Error(StatusCode::internal, "the transport was cancelled");
    SCALECOM_ASSERT(peer >= 0 && peer < size(), fmt::format("peer {}", peer));
    pending_.emplace(++last_id_, peer);
    return {last_id_};
  }

  void watch(int peer, int operation) {
    const Link& link = link_of(peer);
    epoll_event event{};
    event.events = (link.held ? 0u : static_cast<std::uint32_t>(EPOLLIN)) |
                   (link.is_flushing ? static_cast<std::uint32_t>(EPOLLOUT) : 0u);
    event.data.u32 = static_cast<std::uint32_t>(peer);
    if (epoll_ctl(epoll_.descriptor(), operation, link.socket.descriptor(), &event) != 0) {
      throw Error(StatusCode::internal,
                  std::string("watching a connection failed: ") + std::strerror(errno));
    }
  }

  void progress() {
    std::array<epoll_event, 64> ready;
    const int count =
        epoll_wait(epoll_.descriptor(), ready.data(), static_cast<int>(ready.size()), 0);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = ready[static_cast<std::size_t>(i)];
      const int peer = static_cast<int>(event.data.u32);
      Link& link = link_of(peer);
      if ((event.events & EPOLLOUT) != 0) flush(peer, link);
      read(peer, link);
    }
  }

  // Sends what the socket takes.
  void flush(int peer, Link& link) {
    while (!link.outgoing.empty() && link.socket.is_open()) {
      Outgoing& next = link.outgoing.front();
      const std::size_t of_header = std::min(next.sent, kHeaderBytes);
      const std::size_t of_bytes = next.sent - of_header;
      // Only read; iovec has no const.
      std::array<iovec, 2> parts{iovec{next.header.data() + of_header, kHeaderBytes - of_header},
                                 iovec{const_cast<std::byte*>(next.bytes.data()) + of_bytes,
                                       next.bytes.size() - of_bytes}};
      msghdr message{};
      message.msg_iov = parts.data();
      message.msg_iovlen = parts.size();
      const auto sent = sendmsg(link.socket.descriptor(), &message, MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) lose(link, std::strerror(errno));
        break;
      }
      next.sent += static_cast<std::size_t>(sent);
      if (next.sent < kHeaderBytes + next.bytes.size()) continue;
      pending_.erase(next.request);
      link.outgoing.pop_front();
    }
    const bool is_flushing = !link.outgoing.empty() && link.socket.is_open();
    if (is_flushing == link.is_flushing) return;
    link.is_flushing = is_flushing;
    if (link.socket.is_open()) watch(peer, EPOLL_CTL_MOD);
  }

  // Reads what has come.
  void read(int peer, Link& link) {
    while (link.socket.is_open() && !link.held) {
      std::byte* into = link.header.data() + link.header_got;
      std::size_t wanted = kHeaderBytes - link.header_got;
      if (link.arrival) {
        into = link.arrival->target() + link.arrival->got;
        wanted = link.arrival->size - link.arrival->got;
      }
      const auto got = recv(link.socket.descriptor(), into, wanted, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (got <= 0) {
        lose(link, got == 0 ? "connection closed" : std::strerror(errno));
        return;
      }
      if (link.arrival) {
        link.arrival->got += static_cast<std::size_t>(got);
      } else {
        link.header_got += static_cast<std::size_t>(got);
        if (link.header_got < kHeaderBytes) continue;
        link.header_got = 0;
        link.held = read_header(link.header);
        begin_arrival(peer, link);
        if (link.held) watch(peer, EPOLL_CTL_MOD);
      }
      if (link.arrival && link.arrival->got == link.arrival->size) end_arrival(peer, link);
    }
  }

  // After a receive was posted: the message that had no room may have it now.
  void read_on(int peer, Link& link) {
    if (!link.held) return;
    begin_arrival(peer, link);
    if (link.held || !link.socket.is_open()) return;
    watch(peer, EPOLL_CTL_MOD);
  }

  // Of the message that is held, if there is room. Else its sender waits: what it sends next stays
  // in the socket.
  void begin_arrival(int peer, Link& link) {
    Arrival arrival;
    std::tie(arrival.tag, arrival.size) = *link.held;
    auto& waiting = link.receives[arrival.tag];
    if (!waiting.empty()) {
      check_size(peer, arrival.size, waiting.front());
      arrival.receive = waiting.front();
      waiting.pop_front();
    } else {
      if (arrival.size > early_bytes_max_ - link.early_bytes) return;
      link.early_bytes += arrival.size;
      arrival.early.resize(arrival.size);
    }
    link.arrival = std::move(arrival);
    link.held.reset();
  }

  void end_arrival(int peer, Link& link) {
    Arrival arrival = *std::exchange(link.arrival, std::nullopt);
    if (arrival.receive) {
      pending_.erase(arrival.receive->request);
    } else if (link.receives[arrival.tag].empty()) {
      link.messages[arrival.tag].push_back(std::move(arrival.early));
    } else {
      deliver(peer, link, arrival.tag, arrival.early);
    }
  }

  // Gives a message that came early to the first receive of its tag.
  void deliver(int peer, Link& link, int tag, const std::vector<std::byte>& message) {
    auto& waiting = link.receives[tag];
    const Receive receive = waiting.front();
    check_size(peer, message.size(), receive);
    waiting.pop_front();
    if (!message.empty()) std::memcpy(receive.bytes.data(), message.data(), message.size());
    if (peer != rank_) link.early_bytes -= message.size();
    pending_.erase(receive.request);
  }

  void take_own(std::span<const std::byte> bytes, int tag) {
    Link& link = link_of(rank_);
    std::vector<std::byte> message(bytes.begin(), bytes.end());
    if (link.receives[tag].empty()) {
      link.messages[tag].push_back(std::move(message));
    } else {
      deliver(rank_, link, tag, message);
    }
  }

  static void check_size(int peer, std::size_t bytes, const Receive& receive) {
    if (bytes == receive.bytes.size()) return;
    throw Error(StatusCode::internal, fmt::format("rank {} sent {} bytes, {} were expected", peer,
                                                  bytes, receive.bytes.size()));
  }

  // A forked process may still have the socket: closing alone would leave it in the epoll.
  void lose(Link& link, std::string cause) {
    epoll_ctl(epoll_.descriptor(), EPOLL_CTL_DEL, link.socket.descriptor(), nullptr);
    link.socket = Socket();
    link.lost_at = Clock::now();
    link.cause = std::move(cause);
  }

  const int rank_;
  const std::size_t early_bytes_max_;
  std::vector<Link> links_;
  OpenFile epoll_;
  std::unordered_map<std::uint64_t, int> pending_;  // peer of each request
  std::uint64_t last_id_ = 0;
  bool is_cancelled_ = false;
  TransportCounters counters_;
};

}  // namespace

std::unique_ptr<Transport> make_socket_transport(int rank, int size, std::map<int, Socket> peers,
                                                 std::size_t early_bytes_max) {
  return std::make_unique<SocketTransport>(rank, size, std::move(peers), early_bytes_max);
}

}  // namespace scalecom
