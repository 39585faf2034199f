#pragma once

#include <string>

#include "scalecom/config.hpp"
#include "scalecom/session.hpp"

namespace scalecom {

/// JSON object of what was built, what loads now and why not, the settings with their sources, and
/// (when `report` and `topology` are given) the session. What scalecom-info shows.
std::string describe_installation_json(const SessionReport* report, const Topology* topology,
                                       const Config& config);

}  // namespace scalecom
