// The end of a session: ordered by rank 0 like everything else, as long as rank 0 can be reached.
#include <fmt/format.h>

#include "base/error.hpp"
#include "base/lost_rank.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"

namespace scalecom {
namespace {

// A node that knows of a failure waits this long for rank 0 to end the session; then it ends the
// session of its subtree by itself.
constexpr auto kEndTime = std::chrono::seconds(1);

negotiation::Writer end_item(const Status& status) {
  negotiation::Writer item;
  item.put_enum(negotiation::DownItem::end);
  write_status(item, status);
  return item;
}

}  // namespace

void Negotiation::Impl::lose_peer(int peer, const std::string& cause, TimePoint now) {
  if (has_ended_) return;
  now_ = now;
  const Status status = lost_rank(peer, cause).status();
  if (peer == tree_.parent) {
    end_here(first_failure(status), false);
  } else if (member_of(peer) > 0) {
    ask_for_end(status);
  }
}

void Negotiation::Impl::end_session(Status status, TimePoint now) {
  if (has_ended_) return;
  now_ = now;
  SCALECOM_ASSERT(!status.is_ok(), "a session cannot end with status ok");
  // A shutdown waits for its place in the order. After a failure this rank takes part in nothing
  // any more, and may be gone before rank 0 has answered: those below hear the cause from it.
  if (status.code() == StatusCode::shut_down || is_root()) {
    ask_for_end(status);
  } else {
    end_here(first_failure(status), true);
  }
}

// What this node knew first. A shutdown that was only asked for has not ended anything.
Status Negotiation::Impl::first_failure(const Status& status) const {
  return cause_ && cause_->code() != StatusCode::shut_down ? *cause_ : status;
}

void Negotiation::Impl::ask_for_end(const Status& status) {
  if (is_root()) {
    end_everywhere(status);
    return;
  }
  const bool is_failure = status.code() != StatusCode::shut_down;
  if (cause_ && (cause_->code() != StatusCode::shut_down || !is_failure)) return;
  if (is_failure) end_deadline_ = now_ + kEndTime;
  cause_ = status;
  end_request_ = status;
}

void Negotiation::Impl::take_end_request(Reader& reader) {
  ask_for_end(negotiation::read_status(reader));
}

// Rank 0. What is ready was submitted by all ranks, so a shutdown lets it complete.
void Negotiation::Impl::end_everywhere(const Status& status) {
  if (status.code() == StatusCode::shut_down) {
    if (schedule_) {
      if (!deferred_end_) deferred_end_ = status;
      leave("the session is to end: " + status.message());
      return;
    }
    release_all();
  }
  publish(end_item(status));
}

void Negotiation::Impl::end_here(const Status& status, bool is_parent_left) {
  if (is_root()) {
    end_everywhere(status);
    return;
  }
  send_down(end_item(status));
  end_request_.reset();
  if (is_parent_left) end_request_ = status;
  events_.emplace_back(SessionEnd{status});
  has_ended_ = true;
}

// A message that does not parse: its sender, or what carries it, is broken.
void Negotiation::Impl::refuse(int from, const std::string& problem) {
  const Status status(StatusCode::internal,
                      fmt::format("rank {} got a malformed control message from rank {}: {}. "
                                  "Please report it; are all ranks of one version?",
                                  options_.rank, from, problem));
  if (from == tree_.parent) {
    end_here(first_failure(status), true);
  } else {
    ask_for_end(status);
  }
}

}  // namespace scalecom
