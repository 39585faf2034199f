#pragma once

#include <functional>
#include <string_view>

#include "base/wait.hpp"
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

  /// Makes the call and returns its result. One caller at a time; calls are made in their order.
  /// The wait ends with Error (the deadline, the interrupt) while the call is under way still: it
  /// goes on, and so must own all that it uses.
  virtual Result run(Call call, std::string_view what, const WaitContext& context) = 0;

  /// A call comes soon: what sleeps until then may wake up. By who makes the calls; takes as long
  /// as waking a thread does.
  virtual void get_ready() noexcept {}
};

}  // namespace scalecom::device::nccl
