#pragma once

#include <source_location>
#include <string>

#include "scalecom/status.hpp"

namespace scalecom {

/// Ends the process with the condition, the place and `details`. For our own defects only.
[[noreturn]] void assertion_failed(const char* condition, const std::string& details,
                                   std::source_location where);

}  // namespace scalecom

/// Checks an invariant in every build. `details` is a string expression with the values at hand,
/// evaluated on failure only.
#define SCALECOM_ASSERT(condition, details) \
  (static_cast<bool>(condition)             \
       ? void(0)                            \
       : ::scalecom::assertion_failed(#condition, (details), std::source_location::current()))
