#pragma once

#include <fstream>
#include <span>
#include <string>

#include "scalecom/health.hpp"

namespace scalecom {

/// The CSV file of SCALECOM_HEALTH_FILE: one line for each tensor and sampled step, behind what is
/// there already. Confined to one thread.
class HealthFile {
 public:
  /// Throws Error(invalid_argument), which names the variable, where `path` cannot be written.
  explicit HealthFile(std::string path);

  /// The lines are with the system on return. A failure is logged once; nothing is written after
  /// it.
  void append(std::span<const CompressionHealth> lines);

 private:
  const std::string path_;
  std::ofstream file_;
};

}  // namespace scalecom
