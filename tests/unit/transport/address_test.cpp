#include "transport/socket/address.hpp"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ipv6.hpp"
#include "transport/socket/sockets.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

Deadline soon() { return Deadline::after(std::chrono::seconds(10)); }

}  // namespace

TEST_CASE("addresses of both families survive the journey, in their shortest form") {
  for (const char* text :
       {"10.0.0.1", "255.255.255.255", "::", "::1", "fd00::1", "2001:db8::1:0"}) {
    const auto address = Address::parse(text);
    REQUIRE(address);
    CHECK(address->to_string() == text);
    sockaddr_storage raw{};
    CHECK(address->write(raw, 80) == (is_ipv6(text) ? 28 : 16));
    CHECK(Address::of(reinterpret_cast<const sockaddr*>(&raw)) == address);
  }
  CHECK(Address::parse("FD00:0:0::0001")->to_string() == "fd00::1");
  CHECK(Address::parse("::ffff:10.0.0.1") == Address::parse("10.0.0.1"));
  CHECK(parse_host("[::ffff:10.0.0.1]", "X") == "10.0.0.1");
  for (const char* text : {"", "host", "10.0.0", "[::1]", "::1%lo", "fd00:::1", "2130706433"}) {
    CHECK_FALSE(Address::parse(text));
  }
}

TEST_CASE("loopback and link-local addresses are known by their numbers") {
  for (const char* text : {"127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"}) {
    CHECK(Address::parse(text)->is_loopback());
  }
  for (const char* text : {"128.0.0.1", "::", "::2", "1::1", "fd00::1"}) {
    CHECK_FALSE(Address::parse(text)->is_loopback());
    CHECK_FALSE(Address::parse(text)->is_link_local());
  }
  CHECK(Address::parse("fe80::1")->is_link_local());
  CHECK(Address::parse("febf::1")->is_link_local());
  CHECK_FALSE(Address::parse("fec0::1")->is_link_local());
}

TEST_CASE("of several addresses those that every host understands are told, IPv4 first") {
  std::vector<Address> addresses;
  for (const char* text : {"fd00::2", "10.0.0.2", "fe80::1", "fd00::1", "10.0.0.1"}) {
    addresses.push_back(*Address::parse(text));
  }
  CHECK(texts_for_others(addresses) ==
        std::vector<std::string>{"10.0.0.2", "10.0.0.1", "fd00::2", "fd00::1"});
}

TEST_CASE("a place is a host and a port, of IPv6 in brackets") {
  for (const char* text : {"host:1", "10.0.0.1:65535", "[fd00::1]:4000"}) {
    const auto place = parse_place(text);
    REQUIRE(place);
    CHECK(show_place(parse_host(place->host, ""), place->port) == text);
  }
  for (const char* text :
       {"host", "host:", ":1", "host:0", "host:65536", "host:1x", "host: 1", "::1:4000", "fd00::1",
        "[::1]", "[::1]:", "[::1:4000", "::1]:4000", "a:b:1"}) {
    CHECK_FALSE(parse_place(text));
  }
}

TEST_CASE("a host is a name or an address, of IPv6 with or without brackets") {
  CHECK(parse_host("node-1.cluster", "X") == "node-1.cluster");
  CHECK(parse_host("10.0.0.1", "X") == "10.0.0.1");
  CHECK(parse_host("[FD00::0:1]", "X") == "fd00::1");
  CHECK(parse_host("::1", "X") == "::1");
  for (const char* text : {"[::1", "::1]", "[]", "[host]", "[10.0.0.1]", "host:4000", "fd00:::1",
                           "fd00::1%eth0", "[[::1]]"}) {
    CHECK_THROWS_WITH(parse_host(text, "X"), Contains(std::string("X=") + text + " is no host") &&
                                                 Contains("fd00::1 or [fd00::1]"));
  }
  for (const char* text : {"fe80::1", "fe80::1%eth0", "[fe80::1%2]"}) {
    CHECK_THROWS_WITH(parse_host(text, "X"),
                      Contains(std::string("X=") + text + " is a link-local address"));
  }
}

TEST_CASE("a name leads to numeric addresses, IPv4 before IPv6") {
  CHECK(resolve("10.0.0.1") == std::vector<std::string>{"10.0.0.1"});
  CHECK(resolve("fd00::0:1") == std::vector<std::string>{"fd00::1"});
  CHECK(resolve("fe80::1").empty());
  const auto own = resolve("localhost");
  CHECK_FALSE(own.empty());
  CHECK(std::ranges::is_partitioned(own, [](const auto& one) { return !is_ipv6(one); }));
}

TEST_CASE("connections over IPv6 are as those over IPv4") {
  if (!test::has_ipv6()) return;
  int port = 0;
  const Socket listener = listen_tcp("::1", port);
  CHECK(port > 0);
  CHECK_FALSE(try_listen_tcp("::1", port).is_open());
  const Socket mine = connect_tcp("::1", port, soon());
  REQUIRE(mine.is_open());
  const Socket theirs(accept4(listener.descriptor(), nullptr, nullptr, SOCK_NONBLOCK));
  REQUIRE(theirs.is_open());
  CHECK(origin_of(theirs) == "loopback");
  CHECK_FALSE(is_of_another_user(theirs));
  set_tcp_options(mine, std::chrono::seconds(1));
  CHECK(send_all(mine, "word", soon()));
  CHECK(receive_exactly(theirs, 4, soon()) == "word");
}

// A rank looks for one that does not listen yet again and again; where its port is one that the
// system gives away, one of some 20,000 tries is given it.
TEST_CASE("who looks for a listener does not find itself, nor keeps the port from it") {
  int port = 0;
  do {
    listen_tcp("127.0.0.1", port);
    port &= ~1;  // Linux takes even ones for connections first.
  } while (!try_listen_tcp("127.0.0.1", port).is_open());
  int selves = 0;
  for (int i = 0; i < 60'000; ++i) {
    const Socket found = connect_tcp("127.0.0.1", port, soon());
    sockaddr_in own{};
    socklen_t length = sizeof own;
    if (!found.is_open()) continue;
    getsockname(found.descriptor(), reinterpret_cast<sockaddr*>(&own), &length);
    selves += ntohs(own.sin_port) == port ? 1 : 0;
  }
  CHECK(selves == 0);
  CHECK(try_listen_tcp("127.0.0.1", port).is_open());
}

TEST_CASE("who listens at all IPv6 addresses leaves the port's IPv4 ones to others") {
  if (!test::has_ipv6()) return;
  int port = 0;
  const Socket four = listen_tcp("127.0.0.1", port);
  CHECK(try_listen_tcp("::", port).is_open());
}
