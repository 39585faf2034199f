#pragma once

#include <span>

#include "runtime/csv_file.hpp"
#include "scalecom/config.hpp"
#include "scalecom/health.hpp"

namespace scalecom {

/// The CSV file of SCALECOM_HEALTH_FILE: one line for each tensor and sampled step, behind what is
/// there already. Confined to one thread.
class HealthFile {
 public:
  /// Throws what CsvFile throws.
  explicit HealthFile(const Config& config);

  /// See CsvFile::append().
  void append(std::span<const CompressionHealth> lines);

 private:
  CsvFile file_;
};

}  // namespace scalecom
