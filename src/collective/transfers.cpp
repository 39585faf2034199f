#include "collective/transfers.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace scalecom {

// One transfer under way.
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
                ? group_.transport.post_send(chunk, transfer_.peer, group_.first_tag)
                : group_.transport.post_receive(chunk, transfer_.peer, group_.first_tag);
    ++posted_;
  }

  const Group& group_;
  Transfer& transfer_;
  const std::size_t chunks_;
  std::size_t posted_ = 0;
  std::size_t completed_ = 0;
  std::array<TransportRequest, kWindow> window_{};
};

// Receives first: a message that finds its receive posted needs no copy in between.
TransferRun::TransferRun(const Group& group, std::vector<Transfer> transfers)
    : transfers_(std::move(transfers)) {
  active_.reserve(transfers_.size());
  for (const auto direction : {Transfer::Direction::receive, Transfer::Direction::send}) {
    for (Transfer& transfer : transfers_) {
      if (transfer.direction == direction) active_.emplace_back(group, transfer);
    }
  }
}

TransferRun::~TransferRun() = default;

bool TransferRun::advance() {
  bool has_moved = false;
  is_done_ = true;
  for (TransferProgress& progress : active_) {
    has_moved = progress.advance() || has_moved;
    is_done_ = is_done_ && progress.is_done();
  }
  return has_moved;
}

bool StepsRun::advance() {
  if (is_done()) return false;
  if (!run_) run_.emplace(group_, steps_.make(step_));
  const bool has_moved = run_->advance();
  if (!run_->is_done()) return has_moved;
  run_.reset();
  is_done_ = ++step_ == steps_.count;
  if (is_done_ && steps_.finish) steps_.finish();
  return true;
}

namespace {

template <class Run>
void complete(Run& run, const WaitContext& context, std::string_view what) {
  WaitLoop loop(context);
  while (true) {
    const bool has_moved = run.advance();
    if (run.is_done()) return;
    if (has_moved) {
      loop.restart();
    } else {
      loop.pause(what);
    }
  }
}

}  // namespace

void run_transfers(const Group& group, std::vector<Transfer> transfers, std::string_view what) {
  TransferRun run(group, std::move(transfers));
  complete(run, group.context, what);
}

void run_steps(const Group& group, Steps steps, std::string_view what) {
  StepsRun run(group, std::move(steps));
  complete(run, group.context, what);
}

}  // namespace scalecom
