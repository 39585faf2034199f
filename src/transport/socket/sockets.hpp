#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.hpp"
#include "base/open_file.hpp"
#include "base/wait.hpp"

namespace scalecom {

/// The sockets that are made here do not block.
using Socket = OpenFile;

/// Throws Error(unavailable) with `what` failed, why by errno, and what helps.
[[noreturn]] void throw_errno(const std::string& what);

/// To be told by which of many sockets something can be done.
OpenFile make_epoll();

/// Listens on an abstract Unix address (nothing on disk). `name` is free in this namespace.
Socket listen_unix(const std::string& name);

/// As listen_unix(), or a closed socket where the name is taken.
Socket try_listen_unix(const std::string& name);

/// Listens on one numeric address and any free port, which is written to `port`.
Socket listen_tcp(const std::string& address, int& port);
/// Listens on that port, or gives a closed socket where it is taken. 0.0.0.0 is all of the host's
/// IPv4 addresses, :: all IPv6 ones.
Socket try_listen_tcp(const std::string& address, int port);

/// Whether a process of another user is at the other end of a Unix socket, as the kernel tells. Of
/// a TCP connection that is not known: false.
bool is_of_another_user(const Socket& socket);

/// Where a connection comes from, for counting: "another user" on this host's Unix sockets, or the
/// numeric address of a TCP connection, all loopback ones as one. Empty: from this user.
std::string origin_of(const Socket& socket);

/// Whether a numeric address is of the loopback interface; false for a name.
bool is_loopback(const std::string& address);

/// Whether the other end has closed; what it sent before may still be there to read.
bool is_hung_up(const Socket& socket);

/// The numeric addresses of a host, IPv4 before IPv6, without link-local ones; none when there are
/// none (yet). Asks the system's resolver, which has time-outs of its own.
std::vector<std::string> resolve(const std::string& host);

/// A connection, or a closed socket when the peer refuses or the deadline passes: errno says why.
Socket connect_unix(const std::string& name);
Socket connect_tcp(const std::string& address, int port, Deadline deadline);

/// This host's address from which `peer_address` is reached; empty when there is no route, or only
/// one from a link-local address.
std::string local_address_towards(const std::string& peer_address);

/// Whether an address is one of this host's.
bool is_own_address(const std::string& address);

/// Small messages at once; a silent peer is given up after `peer_timeout`. Not for Unix sockets.
void set_tcp_options(const Socket& socket, std::chrono::duration<double> peer_timeout);

/// From now on a peer may leave what is sent to it unread for as long as it likes; one whose host
/// is silent shows on other connections. Does nothing to Unix sockets.
void let_peer_be_slow(const Socket& socket);

/// Waits until there is something to read, or the peer is gone; false when the deadline passes.
/// Asks the interrupt, if there is one, ten times a second.
bool wait_for_bytes(const Socket& socket, const WaitContext& context);

/// All of `bytes`, or false when the peer is gone or the deadline passes. Non-blocking sockets.
bool send_all(const Socket& socket, std::string_view bytes, Deadline deadline);
/// Hands an open file to the process at the other end of a Unix socket, as a descriptor of its own.
bool send_descriptor(const Socket& socket, int descriptor, Deadline deadline);
/// The descriptor, which is now the caller's, or -1 when the peer is gone or the deadline passes.
int receive_descriptor(const Socket& socket, Deadline deadline);
/// Exactly `size` bytes, or an empty string.
std::string receive_exactly(const Socket& socket, std::size_t size, Deadline deadline);

}  // namespace scalecom
