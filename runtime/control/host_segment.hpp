#pragma once

#include <string>
#include <vector>

#include "runtime/control/neighbours.hpp"
#include "transport/shm/shared_segment.hpp"

namespace scalecom {

/// Memory that the ranks of this host share.
struct HostSegment {
  SharedSegment segment;
  /// Why there is none, on some host of the job; then no rank uses any.
  std::string problem;
  bool is_usable() const noexcept { return problem.empty(); }
};

/// Shares one segment of `bytes` between the ranks of each host that has several: the lowest rank
/// makes it and hands it over Unix sockets, authenticated as all connections are. Every rank of the
/// job calls; all get the same answer to whether it can be used everywhere. A rank that cannot be
/// reached within options.connect_timeout is such an answer, too.
HostSegment share_host_segment(Bootstrap& bootstrap, const std::vector<HostFacts>& facts,
                               std::size_t bytes, const ControlOptions& options);

}  // namespace scalecom
