#include "transport/socket/address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <system_error>

#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kIpv4Bytes = 4;
constexpr std::size_t kMappedPrefixBytes = 12;  // Before the IPv4 address in an IPv6 one.

bool is_in_brackets(const std::string& text) {
  return text.size() > 2 && text.front() == '[' && text.back() == ']';
}

}  // namespace

Address Address::of_ipv4(const std::byte* bytes) noexcept {
  Address made;
  std::copy_n(bytes, kIpv4Bytes, made.bytes_.begin());
  return made;
}

Address Address::of_ipv6(const Bytes& bytes) noexcept {
  constexpr std::array<std::byte, kMappedPrefixBytes> kMappedPrefix{
      {{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, std::byte{0xff}, std::byte{0xff}}};
  if (std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), bytes.begin())) {
    return of_ipv4(bytes.data() + kMappedPrefixBytes);
  }
  Address made;
  made.family_ = AF_INET6;
  made.bytes_ = bytes;
  return made;
}

std::optional<Address> Address::parse(const std::string& text) {
  Bytes bytes{};
  if (inet_pton(AF_INET, text.c_str(), bytes.data()) == 1) return of_ipv4(bytes.data());
  if (inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1) return of_ipv6(bytes);
  return std::nullopt;
}

std::optional<Address> Address::of(const sockaddr* raw) {
  Bytes bytes{};
  if (raw->sa_family == AF_INET) {
    std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in*>(raw)->sin_addr, kIpv4Bytes);
    return of_ipv4(bytes.data());
  }
  if (raw->sa_family != AF_INET6) return std::nullopt;
  std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(raw)->sin6_addr, bytes.size());
  return of_ipv6(bytes);
}

bool Address::is_loopback() const noexcept {
  if (family_ == AF_INET) return bytes_[0] == std::byte{127};
  return bytes_.back() == std::byte{1} &&
         std::all_of(bytes_.begin(), bytes_.end() - 1,
                     [](std::byte byte) { return byte == std::byte{0}; });
}

bool Address::is_link_local() const noexcept {
  return family_ == AF_INET6 && bytes_[0] == std::byte{0xfe} &&
         (bytes_[1] & std::byte{0xc0}) == std::byte{0x80};
}

std::string Address::to_string() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(family_, bytes_.data(), text.data(), text.size());
  return text.data();
}

socklen_t Address::write(sockaddr_storage& target, int port) const noexcept {
  target = {};
  const auto number = htons(static_cast<std::uint16_t>(port));
  if (family_ == AF_INET) {
    sockaddr_in& written = reinterpret_cast<sockaddr_in&>(target);
    written.sin_family = AF_INET;
    written.sin_port = number;
    std::memcpy(&written.sin_addr, bytes_.data(), sizeof written.sin_addr);
    return sizeof written;
  }
  sockaddr_in6& written = reinterpret_cast<sockaddr_in6&>(target);
  written.sin6_family = AF_INET6;
  written.sin6_port = number;
  std::memcpy(&written.sin6_addr, bytes_.data(), sizeof written.sin6_addr);
  return sizeof written;
}

std::vector<std::string> texts_for_others(std::vector<Address> addresses) {
  std::erase_if(addresses, [](const Address& address) { return address.is_link_local(); });
  std::ranges::stable_partition(addresses,
                                [](const Address& address) { return address.family() == AF_INET; });
  std::vector<std::string> texts;
  for (const Address& address : addresses) texts.push_back(address.to_string());
  return texts;
}

bool is_ipv6(const std::string& text) {
  const std::optional<Address> address = Address::parse(text);
  return address && address->family() == AF_INET6;
}

std::optional<Place> parse_place(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  Place place{text.substr(0, colon), 0};
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data() + colon + 1, end, place.port);
  if (problem != std::errc() || stop != end || place.port < 1 || place.port > 65535) {
    return std::nullopt;
  }
  // Of an IPv6 address without brackets nobody knows where it ends.
  const bool is_one = place.host.find(':') == std::string::npos || is_in_brackets(place.host);
  return is_one ? std::optional(place) : std::nullopt;
}

std::string show_place(const std::string& host, int port) {
  return (is_ipv6(host) ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::string parse_host(const std::string& text, const std::string& setting) {
  const std::string bare = is_in_brackets(text) ? text.substr(1, text.size() - 2) : text;
  const std::string written = setting + "=" + text;
  // Behind a % is an interface, which only link-local addresses need.
  const std::optional<Address> address = Address::parse(bare.substr(0, bare.find('%')));
  if (address && address->is_link_local()) {
    throw Error(StatusCode::invalid_argument,
                written +
                    " is a link-local address, which each host knows by an interface of its own; "
                    "give all ranks another address of the host of rank 0, or its name");
  }
  // An IPv4 address that is written as an IPv6 one is returned as what it is.
  if (address && bare.find(':') != std::string::npos && bare.find('%') == std::string::npos) {
    return address->to_string();
  }
  if (bare != text || bare.find_first_of(":[]%") != std::string::npos) {
    throw Error(StatusCode::invalid_argument,
                written +
                    " is no host; allowed are a name, an IPv4 address, and an IPv6 address, with "
                    "or without brackets, such as fd00::1 or [fd00::1]");
  }
  return bare;
}

}  // namespace scalecom
