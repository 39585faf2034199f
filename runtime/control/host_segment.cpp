#include "runtime/control/host_segment.hpp"

#include <fmt/format.h>

#include "scalecom/status.hpp"

namespace scalecom {
namespace {

SharedSegment make_and_share(const Neighbours& neighbours, std::size_t bytes, Deadline deadline) {
  SharedSegment segment = SharedSegment::create(bytes);
  for (const auto& [peer, socket] : neighbours) {
    if (!send_descriptor(socket, segment.descriptor(), deadline)) {
      throw Error(StatusCode::unavailable,
                  fmt::format("shared memory cannot be handed to rank {}", peer));
    }
  }
  return segment;
}

SharedSegment take(const Neighbours& neighbours, std::size_t bytes, Deadline deadline) {
  const auto& [leader, socket] = *neighbours.begin();
  const int descriptor = receive_descriptor(socket, deadline);
  if (descriptor < 0) {
    throw Error(StatusCode::unavailable,
                fmt::format("rank {} handed no shared memory over", leader));
  }
  return SharedSegment::adopt(descriptor, bytes);
}

}  // namespace

HostSegment share_host_segment(Bootstrap& bootstrap, const std::vector<HostFacts>& facts,
                               std::size_t bytes, const ControlOptions& options) {
  const Links links = Links::in_host(bootstrap.rank(), facts);
  const Deadline deadline = Deadline::after(options.connect_timeout);
  HostSegment shared;
  Status mine;
  {
    // The connections end here, which tells who waits for a segment that could not be made.
    Neighbours neighbours;
    try {
      neighbours = connect_neighbours(bootstrap, links, facts, options);
      shared.segment = links.parents.empty() ? make_and_share(neighbours, bytes, deadline)
                                             : take(neighbours, bytes, deadline);
    } catch (const Error& error) {
      mine = Status(
          error.code(),
          fmt::format("rank {} on {}: {}", bootstrap.rank(),
                      facts[static_cast<std::size_t>(bootstrap.rank())].host_name, error.what()));
    }
  }
  shared.problem = first_failure(bootstrap, mine, deadline, options.connect_timeout).message();
  return shared;
}

}  // namespace scalecom
