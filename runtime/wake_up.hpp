#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/error.hpp"
#include "base/open_file.hpp"

namespace scalecom {

/// An event descriptor: threads sleep on it in poll, others wake them.
class WakeUp {
 public:
  WakeUp() : file_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (!file_.is_open()) {
      throw Error(StatusCode::unavailable, std::string("cannot create an event descriptor: ") +
                                               std::strerror(errno) +
                                               "; raise the limit of open files (ulimit -n)");
    }
  }

  int descriptor() const noexcept { return file_.descriptor(); }

  /// Makes the descriptor readable. A full counter is readable already.
  void signal() const noexcept {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(descriptor(), &one, sizeof one);
  }

  /// Takes the signals back.
  void clear() const noexcept {
    std::uint64_t signals = 0;
    [[maybe_unused]] const auto taken = read(descriptor(), &signals, sizeof signals);
  }

 private:
  OpenFile file_;
};

}  // namespace scalecom
