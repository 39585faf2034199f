#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <thread>

#include "base/deadline.hpp"
#include "device/nccl/poster.hpp"

namespace scalecom {

/// A thread for calls of NCCL that block. It looks for the next call as long as a WaitLoop of one
/// who can be woken does, and then sleeps.
class PostingThread final : public device::nccl::Poster {
 public:
  /// `enter` is called on the thread before the first call; what it gives is let go at the thread's
  /// end.
  explicit PostingThread(std::function<std::shared_ptr<void>()> enter,
                         Clock::duration patience = std::chrono::seconds(10));
  /// Waits for the end of a call that is under way still: its communicator has been aborted. A
  /// thread that NCCL does not give back within `patience` is left there, with a warning.
  ~PostingThread() override;

  /// What `call` or `enter` throw (Error) is thrown here.
  device::nccl::Result run(Call call, std::string_view what, const WaitContext& context) override;

 private:
  struct Shared;
  static void work(Shared& shared);

  const Clock::duration patience_;
  // The thread's, too, which may outlast this object.
  const std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace scalecom
