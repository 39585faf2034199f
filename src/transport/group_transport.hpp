#pragma once

#include <memory>
#include <vector>

#include "transport/transport.hpp"

namespace scalecom {

/// Some ranks of `whole` as a transport of their own, in which they are numbered by their place in
/// `ranks`. Messages are those of `whole`: operations on both at once need different tags.
/// cancel_all() is the whole's; bytes are counted here as well as there. `whole` outlives it.
std::unique_ptr<Transport> make_group_transport(Transport& whole, std::vector<int> ranks);

}  // namespace scalecom
