#pragma once

#include <string>

#include "scalecom/status.hpp"

namespace scalecom {

/// There is not as much memory as was asked for, of a device or of what it copies from and to.
class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(const std::string& message) : Error(StatusCode::unavailable, message) {}
};

}  // namespace scalecom
