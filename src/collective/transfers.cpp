#include "collective/transfers.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace scalecom {
namespace {

class TransferProgress {
 public:
  TransferProgress(const Group& group, Transfer& transfer)
      : group_(group),
        transfer_(transfer),
        chunks_((transfer.bytes.size() + kChunkBytes - 1) / kChunkBytes) {
    while (posted_ < std::min(chunks_, kWindow)) post_next();
  }

  bool is_done() const noexcept { return completed_ == chunks_; }

  // Completes what has arrived or left, oldest first, and refills the window.
  bool advance() {
    bool has_moved = false;
    while (completed_ < posted_ && group_.transport.test(window_[completed_ % kWindow])) {
      if (transfer_.on_chunk) {
        const std::span<std::byte> chunk = chunk_at(completed_);
        transfer_.on_chunk(completed_ * kChunkBytes, chunk.size());
      }
      ++completed_;
      if (posted_ < chunks_) post_next();
      has_moved = true;
    }
    return has_moved;
  }

 private:
  std::span<std::byte> chunk_at(std::size_t index) const {
    const std::size_t begin = index * kChunkBytes;
    return transfer_.bytes.subspan(begin, std::min(kChunkBytes, transfer_.bytes.size() - begin));
  }

  void post_next() {
    const std::span<std::byte> chunk = chunk_at(posted_);
    TransportRequest& place = window_[posted_ % kWindow];
    place = transfer_.direction == Transfer::Direction::send
                ? group_.transport.post_send(chunk, transfer_.peer, transfer_.tag)
                : group_.transport.post_receive(chunk, transfer_.peer, transfer_.tag);
    ++posted_;
  }

  const Group& group_;
  Transfer& transfer_;
  const std::size_t chunks_;
  std::size_t posted_ = 0;
  std::size_t completed_ = 0;
  std::array<TransportRequest, kWindow> window_{};
};

}  // namespace

void run_transfers(const Group& group, std::span<Transfer> transfers, std::string_view what) {
  std::vector<TransferProgress> active;
  active.reserve(transfers.size());
  // Receives first: a message that finds its receive posted needs no copy in between.
  for (const auto direction : {Transfer::Direction::receive, Transfer::Direction::send}) {
    for (Transfer& transfer : transfers) {
      if (transfer.direction == direction) active.emplace_back(group, transfer);
    }
  }
  WaitLoop loop(group.context);
  while (true) {
    bool has_moved = false;
    bool is_done = true;
    for (TransferProgress& progress : active) {
      has_moved = progress.advance() || has_moved;
      is_done = is_done && progress.is_done();
    }
    if (is_done) return;
    if (has_moved) {
      loop.restart();
    } else {
      loop.pause(what);
    }
  }
}

}  // namespace scalecom
