#pragma once

#include <sys/types.h>
#include <unistd.h>

#include "scalecom/status.hpp"

namespace scalecom {

/// The process that made a session. One that is forked from it has the session's memory, but none
/// of its threads, and its sockets are the other one's: whatever it did would be the other's end.
class OwnerProcess {
 public:
  bool is_here() const noexcept { return getpid() == process_; }
  /// OK in the process itself.
  Status status() const {
    if (is_here()) return {};
    return Status(StatusCode::invalid_argument,
                  "this process was forked from the one that called init(), whose session it "
                  "cannot use: leave collectives to that one, which is the job's rank");
  }
  /// Throws what status() says.
  void check() const {
    if (const Status other = status(); !other.is_ok()) throw Error(other);
  }

 private:
  const pid_t process_ = getpid();
};

}  // namespace scalecom
