#pragma once

#include <memory>
#include <vector>

#include "runtime/control/control_channel.hpp"
#include "runtime/control/neighbours.hpp"

namespace scalecom {

/// A channel to this rank's neighbours in the control tree, connected as connect_neighbours() does.
std::unique_ptr<ControlChannel> connect_control_channel(Bootstrap& bootstrap,
                                                        const std::vector<HostFacts>& facts,
                                                        const ControlOptions& options);

}  // namespace scalecom
