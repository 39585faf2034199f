#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/deadline.hpp"
#include "device/nccl/poster.hpp"

namespace scalecom {

/// A thread for calls of NCCL that block. It looks for the next call as long as a WaitLoop of one
/// who can be woken does, and then sleeps.
class PostingThread final : public device::nccl::Poster {
 public:
  /// How long a call may go on once nobody asks for its result any more.
  struct Patience {
    Clock::duration when_given_up = std::chrono::milliseconds(500);
    Clock::duration at_end = std::chrono::seconds(3);  ///< of the thread
  };
  /// `enter` is called on the thread before the first call that it lets be made; what it gives is
  /// let go at the thread's end. Throws Error(unavailable) where there can be no further thread.
  explicit PostingThread(std::function<std::shared_ptr<void>()> enter)
      : PostingThread(std::move(enter), Patience()) {}
  PostingThread(std::function<std::shared_ptr<void>()> enter, Patience patience);
  /// Waits for the end of a call that is under way still. A thread that NCCL does not give back in
  /// time is left there, with a warning.
  ~PostingThread() override;

  void start(Call call) override;
  /// Also what `enter` throws. Wakes nobody: who waits for it looks again.
  std::optional<device::nccl::Result> result() override;
  bool give_up() noexcept override;
  /// A thread that sleeps looks for a call again.
  void get_ready() noexcept override;

 private:
  struct Shared;
  static void work(Shared& shared);

  const Patience patience_;
  // The thread's, too, which may outlast this object.
  const std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace scalecom
