// Ranks that are out of data: nobody waits for them, and they take part with zeros.
#include <fmt/format.h>

#include <utility>

#include "base/error.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"

namespace scalecom {
namespace {

using negotiation::DownItem;
using negotiation::refuse_message;
using negotiation::UpItem;

}  // namespace

// A schedule needs every rank's submits. What this one still has in flight is sent anew after the
// decision, and the join behind it.
void Negotiation::Impl::join(DeviceKind zeros_on, TimePoint now) {
  if (has_ended_) return;
  now_ = now;
  SCALECOM_ASSERT(!own_join_, "a rank joins twice");
  if (!is_up_to_those_above()) hear_from_above();
  own_join_ = Join{options_.rank, zeros_on};
  if (schedule_) {
    leave(fmt::format("rank {} has joined", options_.rank));
  } else {
    count_join(0, *own_join_);
  }
}

// While a schedule runs here, it was sent before the rank below knew that, and does not count: the
// rank says it again after the decision. But rank 0 hears of it, since a tensor that was completed
// below without that rank may be on its way as well.
void Negotiation::Impl::take_join(std::size_t member, Reader& reader) {
  const Member& below = members_[member];
  Join join;
  join.rank = static_cast<int>(
      reader.get_below(static_cast<std::uint64_t>(below.ranks.end), "rank that has joined"));
  join.zeros_on = static_cast<DeviceKind>(reader.get_below(2, "device of its zeros"));
  if (join.rank < below.ranks.first) {
    refuse_message(fmt::format("rank {}, which has joined, is not below it", join.rank));
  }
  if (!schedule_) return count_join(member, join);
  has_joins_ = true;
  if (!is_root()) joins_up_.push_back(join);
}

// Behind the requests: who has joined has nothing more on its way.
void Negotiation::Impl::write_joins(Writer& writer) {
  for (const Join& join : std::exchange(joins_up_, {})) {
    writer.put_enum(UpItem::join);
    writer.put_varint(static_cast<std::uint64_t>(join.rank));
    writer.put_enum(join.zeros_on);
  }
}

void Negotiation::Impl::count_join(std::size_t member, const Join& join) {
  const int before = joined_.count();
  joined_.add(RankRange{join.rank, join.rank + 1});
  if (joined_.count() == before) refuse_message(fmt::format("rank {} joins twice", join.rank));
  if (join.zeros_on == DeviceKind::host) lacks_device_ = true;
  has_joins_ = true;
  last_agreement_ = now_;
  next_join_check_ = now_ + stall_look_;
  learner_.reset();
  if (!is_root()) joins_up_.push_back(join);
  const RankRange ranks = members_[member].ranks;
  if (++members_[member].joined < ranks.end - ranks.first) return;
  joined_members_ |= std::uint32_t{1} << member;
  complete_without_joined();
  if (is_root() && !has_ended_ && joined_members_ == all_members_) release_joined(join.rank);
}

void Negotiation::Impl::complete_without_joined() {
  std::vector<Tensor*> complete;
  for (Tensor* tensor = table_.first_partial(); tensor != nullptr; tensor = tensor->next) {
    if (is_complete(*tensor)) complete.push_back(tensor);
  }
  for (Tensor* tensor : complete) take_complete(*tensor);
}

// What a rank that has joined cannot take part in: it has nothing to broadcast, and may not know on
// which CUDA device to put zeros. The request goes up as one that differs, its root said to be
// `~root`. Found by the node below which the root is, whatever is above.
void Negotiation::Impl::refuse_if_impossible(Tensor& tensor) {
  if (tensor.common == nullptr) return;
  const TensorSignature& signature = *tensor.common;
  bool lacks_root = false;
  for (std::size_t member = 0; member < members_.size(); ++member) {
    const RankRange ranks = members_[member].ranks;
    const bool has_root = signature.root >= ranks.first && signature.root < ranks.end;
    if (has_root && (tensor.arrived >> member & 1) == 0) lacks_root = true;
  }
  const bool is_rootless = signature.kind == OperationKind::broadcast && lacks_root;
  if (!is_rootless && (signature.device == DeviceKind::host || !lacks_device_)) return;
  split(tensor);
  TensorSignature& refused = tensor.groups.front().signature;
  refused.root = ~refused.root;
}

// Rank 0. What is ready was submitted by a rank before it joined.
void Negotiation::Impl::release_joined(int last_rank) {
  release_all();
  Writer item;
  item.put_enum(DownItem::joined);
  item.put_varint(static_cast<std::uint64_t>(last_rank));
  publish(item);
}

void Negotiation::Impl::apply_joined(Reader& reader) {
  const auto last =
      reader.get_below(static_cast<std::uint64_t>(options_.size), "last rank to join");
  if (joined_members_ != all_members_) {
    refuse_message(
        fmt::format("all ranks have joined, but below this node only {} have", describe(joined_)));
  }
  own_join_.reset();
  has_joins_ = false;
  forget_joins();
  events_.emplace_back(Joined{static_cast<int>(last)});
}

// All have joined; or a schedule starts: the requests of a rank that has joined are taken back like
// all others, so that its join must come again behind them.
void Negotiation::Impl::forget_joins() {
  lacks_device_ = false;
  joined_ = {};
  joined_members_ = 0;
  for (Member& member : members_) member.joined = 0;
  if (own_join_) leave(fmt::format("rank {} has joined", options_.rank));
}

std::optional<TimePoint> Negotiation::Impl::join_timer() const {
  const bool is_timed = is_root() && options_.stall_check && !joined_.is_empty();
  return is_timed ? std::optional(next_join_check_) : std::nullopt;
}

// Rank 0: who has neither joined nor takes part in anything holds the others up.
void Negotiation::Impl::check_joins() {
  const std::optional<TimePoint> due = join_timer();
  if (has_ended_ || !due) return;
  // What is under way, or held back by that, is no silence: it begins when that is over.
  if (backlog_ + unsaid_ > 0 || !ready_.is_empty() || !barriers_.empty()) last_agreement_ = now_;
  if (now_ < *due) return;
  next_join_check_ = now_ + stall_look_;
  const Clock::duration quiet = now_ - last_agreement_;
  if (table_.first_partial() != nullptr) return;
  const RankSet missing = joined_.complement(options_.size);
  const std::string message = fmt::format(
      "{} {} joined, and for {:.1f} s {} neither joined nor agreed on a tensor", describe(joined_),
      joined_.count() == 1 ? "has" : "have", std::chrono::duration<double>(quiet).count(),
      describe(missing) + (missing.count() == 1 ? " has" : " have"));
  if (is_shutdown_due(last_agreement_)) {
    end_stalled(message);
  } else if (quiet >= stall_time_) {
    events_.emplace_back(Stall{message + ". A rank may hang, or end without join()"});
  }
}

}  // namespace scalecom
