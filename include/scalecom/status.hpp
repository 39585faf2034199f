#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "scalecom/export.hpp"

namespace scalecom {

/// What went wrong, by what the caller can do about it. The values are part of the C ABI.
enum class StatusCode : std::int32_t {
  ok = 0,
  /// The caller's argument is wrong; nothing was submitted. Fix the call.
  invalid_argument = 1,
  /// The ranks disagree about a tensor (shape, dtype, op, root...). The session goes on.
  mismatch = 2,
  /// The session was shut down, by this rank or another, before the tensor completed; or here while
  /// it waited for the other ranks to come.
  shut_down = 3,
  /// A rank died or cannot be reached. The session stays failed.
  rank_lost = 4,
  /// A deadline passed (stall shutdown, connect, a wait with a limit).
  timed_out = 5,
  /// Something the work needs is absent or unsuitable (no MPI, thread level too low, no init()).
  unavailable = 6,
  /// A defect in scalecom. Please report it.
  internal = 7,
};

SCALECOM_API const char* to_string(StatusCode code) noexcept;

/// The outcome of one submitted tensor: ok, or a code with a message for a person. A value type.
class Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool is_ok() const noexcept { return code_ == StatusCode::ok; }
  StatusCode code() const noexcept { return code_; }
  /// Names the tensor, the ranks, what was expected and got, and the remedy. Empty when ok.
  const std::string& message() const noexcept { return message_; }

  bool operator==(const Status&) const = default;

 private:
  StatusCode code_ = StatusCode::ok;
  std::string message_;
};

/// Thrown by calls that cannot return a Status (constructors, submits) and inside the library
/// where the world failed. Never crosses a thread or the C ABI.
class SCALECOM_API Error : public std::runtime_error {
 public:
  Error(StatusCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  /// Of what is not ok.
  explicit Error(const Status& status) : Error(status.code(), status.message()) {}
  StatusCode code() const noexcept { return code_; }
  Status status() const { return Status(code_, what()); }

 private:
  StatusCode code_;
};

}  // namespace scalecom
