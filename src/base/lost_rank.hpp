#pragma once

#include <string>

#include "scalecom/status.hpp"

namespace scalecom {

/// What helps where a rank is lost, to end a message with. A rank that the kernel killed for want
/// of memory is a common case, and says nothing itself. One that still runs cannot be reached.
inline constexpr const char* kLostRankRemedy =
    "look at the lost rank's own output and exit code (137, or signal 9, is most often a kill for "
    "want of memory), or, where it still runs, at the network to it; scalecomrun --elastic goes on "
    "without it";

/// The error of `rank`, which is gone or cannot be reached; `cause` is how that was noticed.
Error lost_rank(int rank, const std::string& cause);

}  // namespace scalecom
