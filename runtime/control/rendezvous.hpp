#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transport/bootstrap.hpp"

namespace scalecom {

/// What the environment says of the hosts of a job's ranks.
enum class HostSpread { unknown, one, several };

/// Where the ranks of a job without MPI meet, as its environment tells each of them.
struct Rendezvous {
  int rank = 0;
  int size = 1;
  /// The same on all ranks, and another in another job.
  std::string job;
  /// What ranks must know to be let in; may be empty.
  std::string secret;
  /// Rank 0's host: a name or a numeric address. Ranks may know it by different ones.
  std::string host;
  /// What says so, for messages.
  std::string host_setting = "MASTER_ADDR";
  /// Rank 0 takes the first that is free, the others try them all.
  std::vector<int> ports;
  HostSpread hosts = HostSpread::unknown;
  /// The launcher's, where a process is missing or one too many; may be empty.
  std::string advice;
};

/// Brings the ranks together, without MPI: rank 0 listens, the others connect to it, and it passes
/// on what they exchange. It listens on an abstract Unix socket named by the job, to processes of
/// its own user only, and, unless all are on one host, on one of the TCP ports: at the addresses of
/// `host` that are its own host's, or at all of that where none is, since the network may lead such
/// an address here (NAT, a cluster's service). Where `host` is localhost, 127.x.x.x or ::1, or a
/// name that leads there and is not the host's own, rank 0 keeps off the network unless it knows
/// that ranks are on other hosts, or has a secret, and another rank looks on its own host only.
/// Both ends prove by HMAC-SHA256 (runtime/control/handshake.hpp) that they know `job` and `secret`
/// before a byte of the other counts; who does not is dropped and holds nobody up. Over TCP the
/// secret is all that keeps strangers out, and nothing is encrypted.
///
/// Throws Error on every rank that has come: timed_out naming the ranks that have not within
/// `limit`; invalid_argument for two processes of one rank, a rank outside of the job, world sizes
/// that differ, a rank 0 that may open too few files for a session; unavailable for a meeting place
/// that is taken; what the interrupt throws, which is asked at least every 2 s (unless rank 0 is
/// stopped: then when that is given up). A rank that leaves before all have come may come again.
/// The exchanges of the bootstrap name the ranks that are lost or late.
std::unique_ptr<Bootstrap> meet(const Rendezvous& rendezvous, Bootstrap::Limit limit,
                                Interrupt* interrupt = nullptr);

/// The name of the abstract Unix socket at which the ranks of a job of this user meet.
std::string meeting_name(const std::string& job);

}  // namespace scalecom
