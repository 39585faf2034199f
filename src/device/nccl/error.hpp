#pragma once

#include <string>

#include "device/nccl/api.hpp"
#include "scalecom/status.hpp"

namespace scalecom::device::nccl {

/// The error for a result other than success and in_progress: what was done, NCCL's name of the
/// result, its last message, and the remedy that we know. rank_lost where another rank or its
/// network is gone; internal for a call that scalecom should not have made; else unavailable.
/// `comm` may be null, before there is one.
Error error_of(const Api& api, Result result, CommHandle comm, const std::string& what);

/// Communicators of some of the ranks are asked for, which this version does not have.
Error missing_split(const Api& api);

}  // namespace scalecom::device::nccl
