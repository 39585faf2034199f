// Tensors that some ranks have submitted and others have not, for the stall check time.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kShownTensors = 10;

// A report waits for a fraction of the stall check time behind the first tensor that is due, so
// that it has all that was submitted at about the same time.
constexpr int kReportsLater = 32;

// What sessions and adapters exchange for themselves is named "OPERATION.scalecom[WORDS]", with
// ".KEY" behind it where there are several. The words stand for such a name. Else none: a user's
// name may have such brackets further on, as paths of JAX's do.
std::string_view own_words(std::string_view name) {
  constexpr std::array<std::string_view, 4> kOperations{"allgather", "allreduce", "barrier",
                                                        "broadcast"};
  constexpr std::string_view kBegin = ".scalecom[";
  const std::string_view operation = name.substr(0, name.find('.'));
  if (std::ranges::find(kOperations, operation) == kOperations.end()) return {};
  name.remove_prefix(operation.size());
  if (!name.starts_with(kBegin)) return {};
  name.remove_prefix(kBegin.size());
  const std::size_t end = name.find(']');
  if (end == std::string_view::npos) return {};
  return end + 1 == name.size() || name[end + 1] == '.' ? name.substr(0, end) : std::string_view();
}

std::string join_first(const std::vector<std::string>& texts) {
  const std::size_t shown = std::min(texts.size(), kShownTensors);
  const auto end = texts.begin() + static_cast<std::ptrdiff_t>(shown);
  std::string joined = fmt::format("{}", fmt::join(texts.begin(), end, "; "));
  if (texts.size() > shown) joined += fmt::format("; and {} more", texts.size() - shown);
  return joined;
}

double seconds_between(TimePoint from, TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void Negotiation::Impl::queue_stall_report(Tensor& tensor) {
  if (!tensor.stall) tensor.stall = std::make_unique<negotiation::StallState>();
  tensor.stall->is_reported_up = true;
  if (tensor.stall->is_queued || is_root()) return;
  tensor.stall->is_queued = true;
  stall_reports_.push_back(&tensor);
}

void Negotiation::Impl::write_stall_reports(Writer& writer) {
  for (Tensor* tensor : stall_reports_) {
    tensor->stall->is_queued = false;
    if (tensor->is_sent_up) continue;
    const auto age =
        std::chrono::duration_cast<std::chrono::milliseconds>(now_ - tensor->since).count();
    writer.put_enum(negotiation::UpItem::stall);
    writer.put_string(*tensor->name);
    writer.put_varint(static_cast<std::uint64_t>(std::max<std::int64_t>(age, 0)));
    write_ranks(writer, submitted_ranks(*tensor));
  }
  stall_reports_.clear();
}

void Negotiation::Impl::take_stall_report(std::size_t member, Reader& reader) {
  Tensor& tensor = find_arriving(member, reader.get_string());
  constexpr std::uint64_t kAgeMax = 1ull << 39;  // ms: 17 years
  const auto age = std::chrono::milliseconds(reader.get_below(kAgeMax, "age in ms"));
  RankSet ranks =
      negotiation::read_ranks(reader, members_[member].ranks.first, members_[member].ranks.end);
  if (is_outdated(member, tensor)) return;
  const TimePoint since = now_ - age;
  if (!tensor.is_partial) {
    // Not on its way to being ready soon: it must not be the youngest of the list.
    if (table_.first_partial() == nullptr) next_stall_check_ = now_ + stall_look_;
    table_.list_partial(tensor, since, table_.first_partial());
  }
  tensor.since = std::min(tensor.since, since);
  next_stall_check_ = std::min(next_stall_check_, std::max(now_, tensor.since + stall_look_));
  if (!tensor.stall) tensor.stall = std::make_unique<negotiation::StallState>();
  tensor.stall->reported.resize(members_.size());
  tensor.stall->reported[member] = std::move(ranks);
  queue_stall_report(tensor);
}

negotiation::RankSet Negotiation::Impl::submitted_ranks(const Tensor& tensor) const {
  RankSet ranks = ranks_of(tensor.arrived);
  if (tensor.stall) {
    for (const RankSet& reported : tensor.stall->reported) ranks.add(reported);
  }
  return ranks;
}

void Negotiation::Impl::check_stalls() {
  if (!options_.stall_check || has_ended_ || now_ < next_stall_check_) return;
  // Tensors fall due one by one; checks closer together than this would find one each.
  TimePoint next = now_ + stall_look_;
  std::vector<Tensor*> stalled;
  for (Tensor* tensor = table_.first_partial(); tensor != nullptr; tensor = tensor->next) {
    next = std::min(next, check_stall(*tensor, stalled));
    if (is_root() && is_shutdown_due(tensor->since)) {
      return end_stalled(fmt::format("{} {}",
                                     own_words(*tensor->name).empty() ? "tensor" : "scalecom's own",
                                     describe_wait(wait_for(*tensor))));
    }
  }
  next_stall_check_ = std::max(next, now_ + stall_look_ / kReportsLater);
  const auto is_overdue = [&](const Tensor* tensor) {
    return tensor->stall->next_event + stall_time_ / kReportsLater <= now_;
  };
  if (std::ranges::none_of(stalled, is_overdue)) return;
  for (Tensor* tensor : stalled) {
    tensor->stall->next_event = now_ + stall_time_ - stall_time_ / kReportsLater;
  }
  report_stalls(stalled);
}

bool Negotiation::Impl::is_shutdown_due(TimePoint since) const noexcept {
  return stall_shutdown_ > Clock::duration::zero() && now_ - since >= stall_shutdown_;
}

void Negotiation::Impl::end_stalled(const std::string& what) {
  end_everywhere(Status(StatusCode::timed_out,
                        fmt::format("{}, and the stall shutdown time of {} s has passed "
                                    "(SCALECOM_STALL_SHUTDOWN_TIME_SECONDS)",
                                    what, options_.stall_shutdown_time_s)));
}

// When the tensor is to be looked at again.
TimePoint Negotiation::Impl::check_stall(Tensor& tensor, std::vector<Tensor*>& stalled) {
  const TimePoint first = tensor.since + stall_time_;
  if (!is_root()) {
    const bool is_reported = tensor.stall && tensor.stall->is_reported_up;
    if (!is_reported && first <= now_) queue_stall_report(tensor);
    return is_reported || first <= now_ ? TimePoint::max() : first;
  }
  if (!tensor.stall) tensor.stall = std::make_unique<negotiation::StallState>();
  TimePoint& due = tensor.stall->next_event;
  due = std::max(due, first);
  if (due <= now_) stalled.push_back(&tensor);
  const TimePoint next = due + stall_time_ / kReportsLater;
  if (stall_shutdown_ == Clock::duration::zero()) return next;
  return std::min(next, tensor.since + stall_shutdown_);
}

Negotiation::Impl::Wait Negotiation::Impl::wait_for(const Tensor& tensor) const {
  return {.name = *tensor.name,
          .words = own_words(*tensor.name),
          .behind = submitted_ranks(tensor).complement(options_.size),
          .since = tensor.since};
}

std::string Negotiation::Impl::describe_wait(const Wait& wait) const {
  const RankSet submitted = wait.behind.complement(options_.size);
  RankSet not_missing = submitted;
  not_missing.add(joined_);
  const RankSet missing = not_missing.complement(options_.size);
  const bool is_own = !wait.words.empty();
  return fmt::format("{}: {} {} not {} it for {:.1f} s ({})", is_own ? wait.words : wait.name,
                     describe(missing), missing.count() == 1 ? "has" : "have",
                     is_own ? "come to" : "submitted", seconds_between(wait.since, now_),
                     submitted.is_empty() ? "no rank did all of it" : describe(submitted) + " did");
}

void Negotiation::Impl::report_stalls(const std::vector<Tensor*>& stalled) {
  // The user's come first. Of several tensors with the same words all missing ranks are told in
  // one.
  std::vector<std::string> users;
  std::vector<Wait> own_waits;
  std::map<std::string_view, std::size_t> places;  // by words
  for (const Tensor* tensor : stalled) {
    Wait wait = wait_for(*tensor);
    if (wait.words.empty()) {
      users.push_back(describe_wait(wait));
      continue;
    }
    const auto [place, is_new] = places.try_emplace(wait.words, own_waits.size());
    if (is_new) {
      own_waits.push_back(std::move(wait));
    } else {
      Wait& joint = own_waits[place->second];
      joint.behind.add(wait.behind);
      joint.since = std::min(joint.since, wait.since);
    }
  }
  std::vector<std::string> own;
  for (const Wait& wait : own_waits) own.push_back(describe_wait(wait));
  std::string message = fmt::format(
      "{} not {} by all ranks for {} s or more. {}",
      users.empty()       ? "an exchange of scalecom's own was"
      : users.size() == 1 ? "1 tensor was"
                          : fmt::format("{} tensors were", users.size()),
      users.empty() ? "begun" : "submitted", options_.stall_check_time_s, join_first(users));
  if (!users.empty() && !own.empty()) message += ". Beside it scalecom waits for its own ";
  message += join_first(own) + ". A rank may hang, or submit other tensors than the rest";
  events_.emplace_back(Stall{std::move(message)});
}

}  // namespace scalecom
