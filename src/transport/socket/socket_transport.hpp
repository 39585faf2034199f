#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "transport/socket/sockets.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// Messages over one stream socket to every other rank: for jobs without MPI, between ranks that
/// share no memory. `peers` has a connected, authenticated socket for each rank but this one.
///
/// A message is its tag and size (4 and 8 bytes, little endian) and its bytes. Its receive, if it
/// is posted, takes the bytes straight from the socket; else they wait in memory of this transport,
/// at most `early_bytes_max` of each peer's. More stay in the socket until they are asked for, so
/// that their sender waits.
///
/// A connection that ends fails the requests of its peer with rank_lost, but not before
/// kNewsTime: a process that dies also closes its control connections, which tell all ranks whose
/// death was the first. A rank that only left because of it is not to be named instead.
std::unique_ptr<Transport> make_socket_transport(int rank, int size, std::map<int, Socket> peers,
                                                 std::size_t early_bytes_max = std::size_t{256}
                                                                               << 20);

inline constexpr std::chrono::seconds kNewsTime{2};

}  // namespace scalecom
