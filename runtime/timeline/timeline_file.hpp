#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "base/open_file.hpp"

namespace scalecom {

/// A file with a JSON array that has whole elements whenever the process is killed, and nearly
/// always its closing bracket: each write begins over that of the one before and ends with its own.
/// Confined to one thread at a time.
class TimelineFile {
 public:
  /// Makes the file, or empties it. `origin` says where the path comes from, for errors: a
  /// variable, a call. Throws Error(invalid_argument) where the path cannot be written.
  TimelineFile(const std::string& path, const std::string& origin, int rank);

  /// Adds `elements`, each of less than 4,000 bytes and without a line break, joined by ",\n". A
  /// failure is logged once; nothing is written
  /// after it, and what was written before stays whole.
  void append(std::string_view elements);

 private:
  void write_over_closing(const std::string& text);
  void give_up(const std::string& cause);

  const std::string origin_;
  OpenFile file_;
  off_t end_ = 0;  ///< where the closing bracket is
  bool is_empty_ = true;
};

}  // namespace scalecom
