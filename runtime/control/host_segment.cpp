#include "runtime/control/host_segment.hpp"

#include <fmt/format.h>

#include <algorithm>

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

ControlTree host_star(int rank, const std::vector<HostFacts>& facts) {
  ControlTree star;
  star.rank = rank;
  star.size = static_cast<int>(facts.size());
  for (const std::vector<int>& ranks : ranks_by_host(facts)) {
    if (ranks.front() == rank) {
      star.children.assign(ranks.begin() + 1, ranks.end());
    } else if (std::find(ranks.begin(), ranks.end(), rank) != ranks.end()) {
      star.parent = ranks.front();
    }
  }
  return star;
}

HostSegment share_host_segment(Bootstrap& bootstrap, const std::vector<HostFacts>& facts,
                               std::size_t bytes, const ControlOptions& options) {
  const ControlTree star = host_star(bootstrap.rank(), facts);
  const Deadline deadline = Deadline::after(options.connect_timeout);
  HostSegment shared;
  Status mine;
  {
    // The connections end here, which tells who waits for a segment that could not be made.
    Neighbours neighbours;
    try {
      neighbours = connect_neighbours(bootstrap, Links::of(star), facts, options);
      if (star.parent >= 0) {
        shared.segment = take(neighbours, bytes, deadline);
      } else {
        shared.segment = make_and_share(neighbours, bytes, deadline);
      }
    } catch (const Error& error) {
      mine = Status(error.code(), fmt::format("rank {} on {}: {}", star.rank,
                                              facts[static_cast<std::size_t>(star.rank)].host_name,
                                              error.what()));
    }
  }
  shared.problem = first_failure(bootstrap, mine, options.connect_timeout).message();
  return shared;
}

}  // namespace scalecom
