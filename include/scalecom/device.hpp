#pragma once

#include <cstdint>

namespace scalecom {

/// Where a tensor's memory lives. The values are part of the C ABI.
enum class DeviceKind : std::int32_t { host = 0, cuda = 1 };

/// One memory: the host's (index 0), or one accelerator's.
struct Device {
  DeviceKind kind = DeviceKind::host;
  std::int32_t index = 0;

  bool operator==(const Device&) const = default;
};

}  // namespace scalecom
