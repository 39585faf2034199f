#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/error.hpp"

namespace scalecom {

/// An event descriptor: one thread sleeps on it in epoll, others wake it.
class WakeUp {
 public:
  WakeUp() : descriptor_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (descriptor_ < 0) {
      throw Error(StatusCode::unavailable, std::string("cannot create an event descriptor: ") +
                                               std::strerror(errno) +
                                               "; raise the limit of open files (ulimit -n)");
    }
  }
  ~WakeUp() { close(descriptor_); }
  WakeUp(const WakeUp&) = delete;
  WakeUp& operator=(const WakeUp&) = delete;

  int descriptor() const noexcept { return descriptor_; }

  /// Makes the descriptor readable. A full counter is readable already.
  void signal() const noexcept {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(descriptor_, &one, sizeof one);
  }

  /// Takes the signals back.
  void clear() const noexcept {
    std::uint64_t signals = 0;
    [[maybe_unused]] const auto taken = read(descriptor_, &signals, sizeof signals);
  }

 private:
  int descriptor_;
};

}  // namespace scalecom
