#pragma once

#include <cstdio>

#include "transport/socket/sockets.hpp"

namespace scalecom::test {

/// Whether this machine has IPv6; where it has not, says that the test which asks is left out.
inline bool has_ipv6() {
  if (is_own_address("::1")) return true;
  std::fputs("this machine has no IPv6 (no ::1), and the test of it is left out\n", stderr);
  return false;
}

}  // namespace scalecom::test
