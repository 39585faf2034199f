// A rank 0 that hangs. It alone tells who is late and ends the session for it; where it is stopped
// itself, or a rank between, nobody would: no connection closes, and no collective need run. So a
// rank that waits for long asks whether rank 0 is there, which answers at once whatever it waits
// for, by the stream that all hear.
#include <fmt/format.h>

#include <utility>

#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"

namespace scalecom {
namespace {

// What rank 0 has besides for its answer: its own end of the session, which tells who is late, is
// to be here first, and it may be busy.
constexpr auto kAnswerTime = std::chrono::seconds(5);

}  // namespace

void Negotiation::Impl::hear_from_above() noexcept {
  last_heard_ = now_;
  asked_.reset();
}

// A schedule that runs is this rank's own business; one that is stopped holds results back.
bool Negotiation::Impl::is_up_to_those_above() const noexcept {
  if (is_root()) return false;
  if (schedule_ && schedule_->is_stopped) return true;
  if (schedule_ && !schedule_->is_left) return false;
  return own_requests_ > 0 || own_join_;
}

std::optional<TimePoint> Negotiation::Impl::silence_timer() const {
  if (!is_up_to_those_above()) return std::nullopt;
  return asked_ ? *asked_ + silence_max_ / 2 + kAnswerTime : last_heard_ + silence_max_ / 2;
}

void Negotiation::Impl::check_silence() {
  const std::optional<TimePoint> due = silence_timer();
  if (has_ended_ || !due || now_ < *due) return;
  if (!asked_) {
    asked_ = now_;
    is_ask_due_ = true;
    return;
  }
  std::string what = own_join_ ? "its join" : "the end of the steady state";
  if (own_requests_ > 0) {
    what = fmt::format("{} tensor{} that it has submitted", own_requests_,
                       own_requests_ == 1 ? "" : "s");
  }
  const Status status(
      StatusCode::timed_out,
      fmt::format("rank {}{} hangs: for {:.1f} s rank {} has heard nothing about {}, nor an answer "
                  "when it asked; look at its process. SCALECOM_COLLECTIVE_TIMEOUT, or "
                  "SCALECOM_STALL_SHUTDOWN_TIME_SECONDS where that is set and shorter, says when",
                  tree_.parent, tree_.parent == 0 ? "" : ", or one above it up to rank 0,",
                  std::chrono::duration<double>(now_ - last_heard_).count(), options_.rank, what));
  end_here(first_failure(status), true);
}

void Negotiation::Impl::take_ask() {
  if (!is_root()) {
    is_ask_due_ = true;
    return;
  }
  Writer item;
  item.put_enum(negotiation::DownItem::answer);
  publish(item);
}

void Negotiation::Impl::write_ask(Writer& writer) {
  if (std::exchange(is_ask_due_, false)) writer.put_enum(negotiation::UpItem::ask);
}

}  // namespace scalecom
