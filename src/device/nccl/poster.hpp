#pragma once

#include <functional>
#include <optional>

#include "device/nccl/api.hpp"

namespace scalecom::device::nccl {

/// Makes calls of NCCL that may block, somewhere where that holds nobody up.
///
/// NCCL has two kinds of communicators. Without blocking, each call starts a thread of its own, and
/// takes several times as long; with blocking it does not come back while a rank that it needs is
/// missing. docs/decisions/0022 has the figures.
class Poster {
 public:
  using Call = std::function<Result()>;

  virtual ~Poster() = default;

  /// Begins the call, and does not wait for it. None is under way. It must own all that it uses:
  /// who began it may be gone when it comes back.
  virtual void start(Call call) = 0;

  /// What the call has returned; absent while it is under way. What it has thrown is thrown here,
  /// as an Error.
  virtual std::optional<Result> result() = 0;

  /// Nobody asks for the result any more: a call that is under way is left some time to come back.
  /// False: it has not.
  virtual bool give_up() noexcept = 0;

  /// A call comes soon: what sleeps until then may wake up. By who makes the calls; takes as long
  /// as waking a thread does.
  virtual void get_ready() noexcept {}
};

}  // namespace scalecom::device::nccl
