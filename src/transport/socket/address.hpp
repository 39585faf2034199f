#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace scalecom {

/// A numeric address of the network, IPv4 or IPv6, without a port. An IPv4 address that is written
/// as an IPv6 one (::ffff:10.0.0.1) is the IPv4 address. Immutable.
class Address {
 public:
  /// Of "10.0.0.1" or "fd00::1"; nothing for anything else, as a name, or brackets.
  static std::optional<Address> parse(const std::string& text);
  /// Of a socket, or of what the system has found; nothing for another family.
  static std::optional<Address> of(const sockaddr* raw);

  /// AF_INET or AF_INET6.
  int family() const noexcept { return family_; }
  /// Of this host's loopback interface: 127.x.x.x, ::1.
  bool is_loopback() const noexcept;
  /// fe80::/10: it leads to another host on each interface, and so names none.
  bool is_link_local() const noexcept;
  /// As parse() reads it, in its shortest form.
  std::string to_string() const;
  /// Writes it with a port for the system's calls; returns the length of what was written.
  socklen_t write(sockaddr_storage& target, int port) const noexcept;

  bool operator==(const Address&) const = default;

 private:
  using Bytes = std::array<std::byte, 16>;

  Address() = default;
  static Address of_ipv4(const std::byte* bytes) noexcept;
  static Address of_ipv6(const Bytes& bytes) noexcept;

  int family_ = AF_INET;
  Bytes bytes_{};  ///< in the network's order; of IPv4 the first four
};

/// Those that mean the same on every host, so none that is link-local, as texts: IPv4 before IPv6.
std::vector<std::string> texts_for_others(std::vector<Address> addresses);

/// Whether a text is an IPv6 address, without brackets.
bool is_ipv6(const std::string& text);

/// A host, as it was written, and a port.
struct Place {
  std::string host;
  int port = 0;
};

/// Of "host:port" or "[IPv6 address]:port"; nothing for another form, or a port outside of 1 to
/// 65535. Whether the host is one is seen by parse_host().
std::optional<Place> parse_place(const std::string& text);

/// As parse_place() reads it.
std::string show_place(const std::string& host, int port);

/// A host as users write one: a name or a numeric address, of IPv6 with or without brackets.
/// Returned without them, an IPv6 address in its shortest form. Throws Error(invalid_argument),
/// which begins with `setting`, for what cannot be a host, and for a link-local address.
std::string parse_host(const std::string& text, const std::string& setting);

}  // namespace scalecom
