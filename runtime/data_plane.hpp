#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "collective/shm/hierarchical.hpp"
#include "runtime/control/host_facts.hpp"
#include "runtime/control/neighbours.hpp"
#include "runtime/session_impl.hpp"
#include "transport/bootstrap.hpp"

namespace scalecom {

/// What the data plane is made with, and of: every rank calls make_transport() at once.
struct DataPlaneNeeds {
  Bootstrap& bootstrap;
  const std::vector<HostFacts>& facts;
  const ControlOptions& options;
  std::function<std::unique_ptr<Transport>()> make_transport;
};

/// Gives `parts`, whose config and topology are there, the board, the transport and the tuning of
/// the library's own collectives. Called by all ranks. Where the measurement failed, board and
/// transport are made anew: what it left on them is out of step. Returns the hosts as the
/// collectives are to see them.
HostRanks make_data_plane(SessionParts& parts, const DataPlaneNeeds& needs);

/// The collectives over what `parts` has.
std::unique_ptr<Collectives> make_collectives(const SessionParts& parts, const HostRanks& hosts);

}  // namespace scalecom
