// Tensors that some ranks have submitted and others have not, for the stall check time.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"
#include "runtime/negotiation/times.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kShownTensors = 10;

// What an adapter reduces on its own account has words for it in its name, as in
// "allreduce.scalecom[which gradients are sparse].w". They stand for the name. Else none.
std::string_view own_words(std::string_view name) {
  constexpr std::string_view kBegin = "scalecom[";
  const std::size_t begin = name.find(kBegin);
  if (begin == std::string_view::npos) return {};
  const std::string_view words = name.substr(begin + kBegin.size());
  return words.substr(0, words.find(']'));
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
    writer.put_varint(static_cast<std::uint64_t>(negotiation::UpItem::stall));
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
    table_.list_partial_first(tensor, since);
  }
  tensor.since = std::min(tensor.since, since);
  next_stall_check_ = std::min(next_stall_check_, std::max(now_, tensor.since + stall_look_));
  if (!tensor.stall) tensor.stall = std::make_unique<negotiation::StallState>();
  tensor.stall->reported.resize(members_.size());
  tensor.stall->reported[member] = std::move(ranks);
  queue_stall_report(tensor);
}

negotiation::RankSet Negotiation::Impl::submitted_ranks(const Tensor& tensor) const {
  RankSet ranks;
  for (std::size_t member = 0; member < members_.size(); ++member) {
    if ((tensor.arrived >> member & 1) != 0) {
      ranks.add(members_[member].ranks);
    } else if (tensor.stall && member < tensor.stall->reported.size()) {
      ranks.add(tensor.stall->reported[member]);
    }
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
    const bool is_over = is_root() && stall_shutdown_ > Clock::duration::zero() &&
                         now_ - tensor->since >= stall_shutdown_;
    if (is_over) {
      const std::string message = fmt::format(
          "{} {}, and the stall shutdown time of {} s has passed "
          "(SCALECOM_STALL_SHUTDOWN_TIME_SECONDS)",
          own_words(*tensor->name).empty() ? "tensor" : "scalecom's own", describe_wait(*tensor),
          options_.stall_shutdown_time_s);
      end_everywhere(Status(StatusCode::timed_out, message));
      return;
    }
  }
  next_stall_check_ = std::max(next, now_ + stall_look_ / 16);
  if (!stalled.empty()) report_stalls(stalled);
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
  if (due <= now_) {
    stalled.push_back(&tensor);
    due = now_ + stall_time_;
  }
  if (stall_shutdown_ == Clock::duration::zero()) return due;
  return std::min(due, tensor.since + stall_shutdown_);
}

std::string Negotiation::Impl::describe_wait(const Tensor& tensor) const {
  const RankSet submitted = submitted_ranks(tensor);
  RankSet not_missing = submitted;
  not_missing.add(joined_);
  const RankSet missing = not_missing.complement(options_.size);
  const std::string_view words = own_words(*tensor.name);
  return fmt::format("{}: {} {} not {} it for {:.1f} s ({} did)",
                     words.empty() ? *tensor.name : words, describe(missing),
                     missing.count() == 1 ? "has" : "have", words.empty() ? "submitted" : "come to",
                     seconds_between(tensor.since, now_), describe(submitted));
}

void Negotiation::Impl::report_stalls(const std::vector<Tensor*>& stalled) {
  // The user's come first, and what several tensors are there for is said once.
  std::vector<std::string> users;
  std::vector<std::string> own;
  std::set<std::string_view> said;
  for (const Tensor* tensor : stalled) {
    const std::string_view words = own_words(*tensor->name);
    if (!words.empty() && !said.insert(words).second) continue;
    (words.empty() ? users : own).push_back(describe_wait(*tensor));
  }
  std::string message =
      fmt::format("{} not {} by all ranks for {} s or more. ",
                  users.empty()       ? "an exchange of scalecom's own was"
                  : users.size() == 1 ? "1 tensor was"
                                      : fmt::format("{} tensors were", users.size()),
                  users.empty() ? "begun" : "submitted", options_.stall_check_time_s);
  const std::size_t shown = std::min(users.size(), kShownTensors);
  message += fmt::format(
      "{}", fmt::join(users.begin(), users.begin() + static_cast<std::ptrdiff_t>(shown), "; "));
  if (users.size() > shown) message += fmt::format("; and {} more", users.size() - shown);
  if (!users.empty() && !own.empty()) message += ". Beside it scalecom waits for its own ";
  message += fmt::format("{}. A rank may hang, or submit other tensors than the rest",
                         fmt::join(own, "; "));
  events_.emplace_back(Stall{std::move(message)});
}

}  // namespace scalecom
