#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/support/temporary_folder.hpp"

namespace scalecom::test {

/// What the process writes to stderr during its life, which then does not appear there.
class CapturedStderr {
 public:
  CapturedStderr() : path_(folder_.path() + "/stderr"), before_(dup(STDERR_FILENO)) {
    const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (before_ < 0 || file < 0 || dup2(file, STDERR_FILENO) < 0) std::abort();
    close(file);
  }
  ~CapturedStderr() {
    dup2(before_, STDERR_FILENO);
    close(before_);
  }
  CapturedStderr(const CapturedStderr&) = delete;
  CapturedStderr& operator=(const CapturedStderr&) = delete;

  std::string text() const {
    std::ostringstream text;
    text << std::ifstream(path_).rdbuf();
    return text.str();
  }

 private:
  const TemporaryFolder folder_;
  const std::string path_;
  const int before_;
};

}  // namespace scalecom::test
