#include "transport/socket/sockets.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "scalecom/status.hpp"
#include "transport/socket/address.hpp"

namespace scalecom {
namespace {

// Closed where the system has none of that family.
Socket try_make_socket(int family) {
  Socket made(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.is_open() && errno != EAFNOSUPPORT) throw_errno("socket");
  return made;
}

Socket make_socket(int family) {
  Socket made = try_make_socket(family);
  if (!made.is_open()) throw_errno("socket");
  return made;
}

// The leading zero byte makes the name abstract.
std::pair<sockaddr_un, socklen_t> unix_address(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t length = std::min(name.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, name.data(), length);
  return {address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length)};
}

// A numeric address and a port, as the system's calls take them.
struct TcpAddress {
  TcpAddress(const std::string& text, int port) {
    const std::optional<Address> address = Address::parse(text);
    if (!address) throw Error(StatusCode::internal, text + " is not a numeric address");
    length = address->write(storage, port);
  }
  const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }

  sockaddr_storage storage{};
  socklen_t length = 0;
};

// What getsockname() or getpeername() says; AF_UNSPEC where it fails.
template <class Name>
sockaddr_storage name_of(const Socket& socket, Name name) {
  sockaddr_storage named{};
  socklen_t length = sizeof named;
  name(socket.descriptor(), reinterpret_cast<sockaddr*>(&named), &length);
  return named;
}

// Not a temporary one (privacy extensions), which goes after days, and connections with it.
void prefer_lasting_address(const Socket& socket, int family) {
  constexpr int kPublic = 2;  // IPV6_PREFER_SRC_PUBLIC, of linux/in6.h alone.
  if (family != AF_INET6) return;
  setsockopt(socket.descriptor(), IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, &kPublic, sizeof kPublic);
}

std::optional<Address> address_of(const sockaddr_storage& named) {
  return Address::of(reinterpret_cast<const sockaddr*>(&named));
}

// Whether a socket is connected with itself: the system may give it the very port that it looks for
// a listener at, and then keeps that from the listener.
bool is_its_own_peer(const Socket& socket) {
  const sockaddr_storage own = name_of(socket, getsockname);
  const sockaddr_storage peer = name_of(socket, getpeername);
  return std::memcmp(&own, &peer, sizeof own) == 0;
}

// The port is free at once, which after an orderly end it is not.
void abort_connection(Socket& socket) {
  const linger at_once{1, 0};
  setsockopt(socket.descriptor(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  socket = Socket();
}

bool wait_for(const Socket& socket, short events, Deadline deadline) {
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline.at() - Clock::now()).count();
    if (left <= 0) return false;
    pollfd descriptor{socket.descriptor(), events, 0};
    const int ready = poll(&descriptor, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

// A descriptor travels beside at least one byte.
struct DescriptorMessage {
  char byte = 'd';
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr header{.msg_name = nullptr,
                .msg_namelen = 0,
                .msg_iov = &data,
                .msg_iovlen = 1,
                .msg_control = control.data(),
                .msg_controllen = control.size(),
                .msg_flags = 0};
};

}  // namespace

void throw_errno(const std::string& what) {
  const int error = errno;
  std::string text = "a connection cannot be set up: " + what + ": " + std::strerror(error);
  if (error == EMFILE) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    text += " (the limit of this process is " + std::to_string(limit.rlim_cur) +
            "); raise it with ulimit -n";
  }
  throw Error(StatusCode::unavailable, text);
}

OpenFile make_epoll() {
  OpenFile made(epoll_create1(EPOLL_CLOEXEC));
  if (!made.is_open()) throw_errno("epoll_create1");
  return made;
}

Socket try_listen_unix(const std::string& name) {
  Socket listener = make_socket(AF_UNIX);
  const auto [address, length] = unix_address(name);
  if (bind(listener.descriptor(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno == EADDRINUSE) return {};
    throw_errno("listening on a Unix socket");
  }
  if (listen(listener.descriptor(), SOMAXCONN) != 0) throw_errno("listening on a Unix socket");
  return listener;
}

Socket listen_unix(const std::string& name) {
  Socket listener = try_listen_unix(name);
  if (!listener.is_open()) throw_errno("listening on a Unix socket");
  return listener;
}

Socket try_listen_tcp(const std::string& address, int port) {
  const TcpAddress bound(address, port);
  Socket listener = make_socket(bound.family());
  // Connections of a job before that are dying out do not hold the port.
  const int yes = 1;
  setsockopt(listener.descriptor(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  // Else :: would be all IPv4 addresses, too.
  if (bound.family() == AF_INET6) {
    setsockopt(listener.descriptor(), IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
  }
  if (bind(listener.descriptor(), bound.raw(), bound.length) != 0 ||
      listen(listener.descriptor(), SOMAXCONN) != 0) {
    if (errno == EADDRINUSE || errno == EACCES) return {};
    throw_errno("listening on " + address);
  }
  return listener;
}

Socket listen_tcp(const std::string& address, int& port) {
  Socket listener = try_listen_tcp(address, 0);
  if (!listener.is_open()) throw_errno("listening on " + address);
  const sockaddr_storage bound = name_of(listener, getsockname);
  // The port is at the same place in both.
  port = ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  return listener;
}

bool is_of_another_user(const Socket& socket) {
  int family = AF_UNSPEC;
  socklen_t length = sizeof family;
  getsockopt(socket.descriptor(), SOL_SOCKET, SO_DOMAIN, &family, &length);
  if (family != AF_UNIX) return false;
  ucred peer{};
  length = sizeof peer;
  return getsockopt(socket.descriptor(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
         peer.uid != geteuid();
}

std::string origin_of(const Socket& socket) {
  if (is_of_another_user(socket)) return "another user";
  const std::optional<Address> peer = address_of(name_of(socket, getpeername));
  if (!peer) return {};
  // Any process of this host may take any of the loopback interface's addresses.
  return peer->is_loopback() ? "loopback" : peer->to_string();
}

bool is_loopback(const std::string& address) {
  const std::optional<Address> number = Address::parse(address);
  return number && number->is_loopback();
}

bool is_hung_up(const Socket& socket) {
  pollfd descriptor{socket.descriptor(), POLLRDHUP, 0};
  return poll(&descriptor, 1, 0) > 0;
}

std::vector<std::string> resolve(const std::string& host) {
  addrinfo wanted{};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  int problem = getaddrinfo(host.c_str(), nullptr, &wanted, &found);
  // A name server may have no answer at all to the question for IPv6.
  if (problem == EAI_AGAIN || problem == EAI_FAIL) {
    wanted.ai_family = AF_INET;
    problem = getaddrinfo(host.c_str(), nullptr, &wanted, &found);
  }
  if (problem != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, &freeaddrinfo);
  std::vector<Address> addresses;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    if (const auto address = Address::of(entry->ai_addr)) addresses.push_back(*address);
  }
  return texts_for_others(std::move(addresses));
}

Socket connect_unix(const std::string& name) {
  Socket made = make_socket(AF_UNIX);
  const auto [address, length] = unix_address(name);
  if (connect(made.descriptor(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return {};
  }
  return made;
}

Socket connect_tcp(const std::string& address, int port, Deadline deadline) {
  const TcpAddress target(address, port);
  Socket made = try_make_socket(target.family());
  if (!made.is_open()) return {};
  prefer_lasting_address(made, target.family());
  int error = connect(made.descriptor(), target.raw(), target.length) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    error = ETIMEDOUT;
    socklen_t length = sizeof error;
    if (wait_for(made, POLLOUT, deadline)) {
      getsockopt(made.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length);
    }
  }
  if (error == 0 && !is_its_own_peer(made)) return made;
  abort_connection(made);
  errno = error == 0 ? ECONNREFUSED : error;
  return {};
}

// Asks the routing table: connecting a datagram socket sends nothing.
std::string local_address_towards(const std::string& peer_address) {
  const TcpAddress target(peer_address, 9);
  const Socket probe(socket(target.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!probe.is_open()) return {};
  prefer_lasting_address(probe, target.family());
  if (connect(probe.descriptor(), target.raw(), target.length) != 0) return {};
  const std::optional<Address> local = address_of(name_of(probe, getsockname));
  return local && !local->is_link_local() ? local->to_string() : "";
}

bool is_own_address(const std::string& address) {
  return local_address_towards(address) == address;
}

void set_tcp_options(const Socket& socket, std::chrono::duration<double> peer_timeout) {
  const auto set = [&](int level, int name, int value) {
    setsockopt(socket.descriptor(), level, name, &value, sizeof value);
  };
  const auto timeout_ms = static_cast<int>(peer_timeout.count() * 1000.0);
  // An idle connection is probed often enough that three lost probes fit into the time.
  const int probe_s = std::max(1, static_cast<int>(peer_timeout.count() / 4.0));
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, probe_s);
  set(IPPROTO_TCP, TCP_KEEPINTVL, probe_s);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_ms);
}

// The kernel counts a full window as silence, though the peer's kernel answers.
void let_peer_be_slow(const Socket& socket) {
  const int never = 0;
  setsockopt(socket.descriptor(), IPPROTO_TCP, TCP_USER_TIMEOUT, &never, sizeof never);
}

bool wait_for_bytes(const Socket& socket, const WaitContext& context) {
  constexpr auto kCheckPeriod = std::chrono::milliseconds(100);
  while (!wait_for(socket, POLLIN, std::min(context.deadline, Deadline::after(kCheckPeriod)))) {
    if (context.deadline.has_passed()) return false;
    if (context.interrupt != nullptr) context.interrupt->check();
  }
  return true;
}

bool send_all(const Socket& socket, std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const auto sent = send(socket.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if ((errno != EAGAIN && errno != EINTR) || !wait_for(socket, POLLOUT, deadline)) {
      return false;
    }
  }
  return true;
}

bool send_descriptor(const Socket& socket, int descriptor, Deadline deadline) {
  DescriptorMessage message;
  cmsghdr* header = CMSG_FIRSTHDR(&message.header);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  while (sendmsg(socket.descriptor(), &message.header, MSG_NOSIGNAL) != 1) {
    if ((errno != EAGAIN && errno != EINTR) || !wait_for(socket, POLLOUT, deadline)) return false;
  }
  return true;
}

int receive_descriptor(const Socket& socket, Deadline deadline) {
  DescriptorMessage message;
  ssize_t got = 0;
  while ((got = recvmsg(socket.descriptor(), &message.header, MSG_CMSG_CLOEXEC)) < 0) {
    if ((errno != EAGAIN && errno != EINTR) || !wait_for(socket, POLLIN, deadline)) return -1;
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message.header);
  if (got != 1 || header == nullptr || header->cmsg_type != SCM_RIGHTS) return -1;
  int descriptor = -1;
  std::memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
  return descriptor;
}

std::string receive_exactly(const Socket& socket, std::size_t size, Deadline deadline) {
  std::string bytes(size, '\0');
  std::size_t received = 0;
  while (received < size) {
    const auto got = recv(socket.descriptor(), bytes.data() + received, size - received, 0);
    if (got > 0) {
      received += static_cast<std::size_t>(got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR) ||
               !wait_for(socket, POLLIN, deadline)) {
      return {};
    }
  }
  return bytes;
}

}  // namespace scalecom
