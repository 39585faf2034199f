#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "collective/group.hpp"

namespace scalecom {

/// Bytes of one message on the way. A multiple of every element size. Windows of such messages
/// fill a link in both directions, where one large exchange reaches half of it. Below the 64 KiB up
/// to which Open MPI's TCP sends at once: what is longer waits for an answer of the receiver first.
inline constexpr std::size_t kChunkBytes = 60 * 1024;
/// Messages of one transfer that are outstanding at once.
inline constexpr std::size_t kWindow = 8;

/// A vector on its way to or from one peer, cut into chunks.
struct Transfer {
  enum class Direction { send, receive };
  Direction direction = Direction::send;
  int peer = 0;
  std::span<std::byte> bytes;  ///< only read when sending
  /// receive: called for each chunk in order, with its place in `bytes`.
  std::function<void(std::size_t offset, std::size_t size)> on_chunk = {};
};

inline Transfer send_to(int peer, std::span<const std::byte> bytes) {
  return {Transfer::Direction::send, peer, {const_cast<std::byte*>(bytes.data()), bytes.size()}};
}
inline Transfer receive_from(int peer, std::span<std::byte> bytes,
                             std::function<void(std::size_t, std::size_t)> on_chunk = {}) {
  return {Transfer::Direction::receive, peer, bytes, std::move(on_chunk)};
}

class TransferProgress;

/// Transfers that are carried out at once, each with its own window. Both ends cut a vector of one
/// size into the same chunks; nothing travels for an empty one.
class TransferRun {
 public:
  /// Posts what fits into the windows. The group outlives the run.
  TransferRun(const Group& group, std::vector<Transfer> transfers);
  ~TransferRun();
  TransferRun(const TransferRun&) = delete;
  TransferRun& operator=(const TransferRun&) = delete;

  /// Completes what has arrived or left and goes on, without waiting; false when nothing moved.
  bool advance();
  bool is_done() const noexcept { return is_done_; }

 private:
  std::vector<Transfer> transfers_;
  std::vector<TransferProgress> active_;
  bool is_done_ = false;
};

/// Carries out all transfers. `what` names the work in errors.
void run_transfers(const Group& group, std::vector<Transfer> transfers, std::string_view what);

/// A collective as a series of steps, each a set of transfers that is made when the one before is
/// over (and may compute something first).
struct Steps {
  int count = 0;
  std::function<std::vector<Transfer>(int step)> make = {};
  std::function<void()> finish = {};  ///< behind the last step
};

/// Steps on their way, without waiting.
class StepsRun {
 public:
  /// The group outlives the run.
  StepsRun(const Group& group, Steps steps)
      : group_(group), steps_(std::move(steps)), is_done_(steps_.count == 0) {}

  /// False when nothing moved.
  bool advance();
  bool is_done() const noexcept { return is_done_; }

 private:
  const Group& group_;
  const Steps steps_;
  bool is_done_ = false;
  int step_ = 0;
  std::optional<TransferRun> run_;
};

void run_steps(const Group& group, Steps steps, std::string_view what);

}  // namespace scalecom
