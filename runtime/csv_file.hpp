#pragma once

#include <string>
#include <string_view>

#include "base/open_file.hpp"

namespace scalecom {

/// A CSV file that a setting names: lines go behind what is there already, a header comes first in
/// a new one. Confined to one thread.
class CsvFile {
 public:
  /// Throws Error(invalid_argument), which names the variable, where `path` cannot be written.
  /// `header` is a line.
  CsvFile(std::string variable, const std::string& path, std::string_view header);

  /// Whole lines, which are with the system on return. A failure is logged once; nothing is written
  /// after it.
  void append(std::string_view lines);

  /// A text as one field (RFC 4180).
  static std::string quoted(const std::string& text);

 private:
  std::string origin_;  ///< VARIABLE=path
  OpenFile file_;
};

}  // namespace scalecom
