// Back from the steady state to negotiation: leave, stop, report, decision.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"

namespace scalecom {
namespace {

using negotiation::refuse_message;
using negotiation::Schedule;
using negotiation::ScheduledAgreement;
using negotiation::ScheduledTensor;

// When the steady state ends every rank sends what it has submitted: until these requests are here,
// rank 0 calls nobody late.
constexpr auto kReplyTime = std::chrono::milliseconds(100);

}  // namespace

// This node, or one below it, wants the schedule to end.
void Negotiation::Impl::leave(const std::string& reason) {
  if (has_ended_ || !schedule_ || schedule_->is_left || schedule_->is_stopped) return;
  schedule_->is_left = true;
  if (!is_root()) {
    leave_request_ = reason;
    return;
  }
  Writer item;
  item.put_enum(negotiation::DownItem::stop);
  item.put_string(reason);
  publish(item);
}

void Negotiation::Impl::take_leave(Reader& reader) {
  const std::string_view reason = reader.get_string();
  if (!schedule_) refuse_message("it leaves a schedule, but none runs");
  leave(std::string(reason));
}

void Negotiation::Impl::apply_stop(Reader& reader) {
  const std::string_view reason = reader.get_string();
  if (!schedule_ || schedule_->is_stopped) refuse_message("it stops a schedule, but none runs");
  Schedule& schedule = *schedule_;
  schedule.is_stopped = true;
  schedule.stopped_at = now_;
  schedule.next_stop_check = now_ + stall_look_;
  schedule.reported = 1;
  schedule.taken_min = schedule.taken_max = schedule.taken;
  leave_request_.reset();
  ++steady_counters_.leaves;
  steady_counters_.last_reason = reason;
  events_.emplace_back(
      Hold{fmt::format("the steady state ends after {} agreements: {}", schedule.taken, reason)});
  report_if_complete();
}

void Negotiation::Impl::take_report(std::size_t member, Reader& reader) {
  const std::uint64_t least = reader.get_varint();
  const std::uint64_t more = reader.get_varint();
  if (!schedule_ || !schedule_->is_stopped || (schedule_->reported >> member & 1) != 0) {
    refuse_message("it reports on a schedule that is not stopped, or twice");
  }
  Schedule& schedule = *schedule_;
  schedule.taken_min = std::min(schedule.taken_min, least);
  schedule.taken_max = std::max(schedule.taken_max, least + more);
  // A tensor is submitted again only after an agreement that every rank has begun.
  if (more > schedule.size() || schedule.taken_max - schedule.taken_min > schedule.size()) {
    refuse_message(fmt::format("it took {} to {} agreements from a schedule of {}, others {} to {}",
                               least, least + more, schedule.size(), schedule.taken_min,
                               schedule.taken_max));
  }
  schedule.reported |= std::uint32_t{1} << member;
  report_if_complete();
}

void Negotiation::Impl::report_if_complete() {
  if (schedule_->reported != all_members_) return;
  if (!is_root()) {
    schedule_->is_report_due = true;
    return;
  }
  Writer item;
  item.put_enum(negotiation::DownItem::decision);
  item.put_varint(schedule_->taken_min);
  item.put_varint(schedule_->taken_max - schedule_->taken_min);
  publish(item);
}

void Negotiation::Impl::write_steady_items(Writer& writer) {
  if (leave_request_) {
    writer.put_enum(negotiation::UpItem::leave);
    writer.put_string(*leave_request_);
    leave_request_.reset();
  }
  if (!schedule_ || !schedule_->is_report_due) return;
  schedule_->is_report_due = false;
  writer.put_enum(negotiation::UpItem::report);
  writer.put_varint(schedule_->taken_min);
  writer.put_varint(schedule_->taken_max - schedule_->taken_min);
}

// Rank 0: a rank that does not answer the stop holds everybody up.
void Negotiation::Impl::check_stop() {
  if (!is_root() || !options_.stall_check || now_ < schedule_->next_stop_check) return;
  const auto time = std::chrono::duration<double>(now_ - schedule_->stopped_at);
  const std::string message =
      fmt::format("{}, or one below, has not answered the end of the steady state for {:.1f} s",
                  describe(ranks_of(all_members_ & ~schedule_->reported)), time.count());
  if (is_shutdown_due(schedule_->stopped_at)) return end_stalled(message);
  schedule_->next_stop_check = now_ + stall_look_;
  events_.emplace_back(Stall{message + ". A process may hang"});
}

void Negotiation::Impl::apply_decision(Reader& reader) {
  const std::uint64_t agreed = reader.get_varint();
  const std::uint64_t more = reader.get_varint();
  if (!schedule_ || !schedule_->is_stopped || schedule_->reported != all_members_) {
    refuse_message("it decides on a schedule that this node has not reported on");
  }
  if (agreed > schedule_->taken_min || more > schedule_->size() ||
      agreed + more < schedule_->taken_max) {
    refuse_message(fmt::format("it decides on {} and {} more agreements, while {} to {} were taken",
                               agreed, more, schedule_->taken_min, schedule_->taken_max));
  }
  Schedule schedule = std::move(*schedule_);
  schedule_.reset();
  const std::uint64_t end = agreed + more;
  events_.emplace_back(
      Revocation{schedule.sequence_before + agreed + 1, schedule.sequence_before + end + 1});
  for (const ScheduledAgreement& agreement : schedule.agreements) {
    for (const ScheduledTensor& scheduled : agreement.tensors) scheduled.tensor->scheduled = -1;
  }
  if (is_root()) keep_steps(schedule, agreed);
  for (std::uint64_t k = agreed; k < schedule.taken; ++k) {
    for (const ScheduledTensor& scheduled : schedule.at(k).tensors) take_back(*scheduled.tensor);
  }
  for (std::uint64_t k = schedule.taken; k < end; ++k) take_void(schedule, k);
  sequence_ = schedule.sequence_before + end;
  for (std::uint64_t k = agreed; k < agreed + schedule.size(); ++k) {
    for (const ScheduledTensor& scheduled : schedule.at(k).tensors) {
      if (scheduled.tensor->arrived != 0) arrive_again(*scheduled.tensor);
    }
  }
  if (own_join_) count_join(0, *own_join_);
  if (is_root()) order_deferred();
}

// Rank 0 counts on as if only what is not void had happened.
void Negotiation::Impl::keep_steps(const Schedule& schedule, std::uint64_t agreed) {
  for (std::uint64_t place = 0; place < schedule.size(); ++place) {
    const auto turns = static_cast<std::int64_t>(schedule.turns_of(place, agreed));
    for (const ScheduledTensor& scheduled : schedule.agreements[place].tensors) {
      if (scheduled.is_restarted) continue;
      const Tensor& tensor = *scheduled.tensor;
      steps_.set_next(*tensor.name, tensor.cached, scheduled.first_step + turns);
    }
  }
  // A change of settings says nothing against schedules.
  if (!next_fusion_) learner_.take_leave(agreed / schedule.size());
}

// This rank has taken it; it is void, so it is submitted still.
void Negotiation::Impl::take_back(Tensor& tensor) {
  SCALECOM_ASSERT(tensor.arrived == 0, *tensor.name + " was submitted again before it completed");
  tensor.local_name = *tensor.name;
  tensor.local = tensor.cached;
  tensor.arrived = 1;
  ++own_requests_;
}

// Others have taken it, this rank has not.
void Negotiation::Impl::take_void(Schedule& schedule, std::uint64_t k) {
  Agreement agreement;
  agreement.sequence = schedule.sequence_before + 1 + k;
  agreement.is_void = true;
  for (const ScheduledTensor& scheduled : schedule.at(k).tensors) {
    const Tensor& tensor = *scheduled.tensor;
    agreement.tensors.push_back({*tensor.name, tensor.cached, schedule.step_of(scheduled, k), {}});
  }
  ++steady_counters_.agreements;
  push_agreement(std::move(agreement));
}

// A submitted tensor of the schedule becomes an ordinary request, as old as it is.
void Negotiation::Impl::arrive_again(Tensor& tensor) {
  const TimePoint heard = tensor.heard;
  tensor.arrived = 0;
  const bool is_hit = negotiation::agree(tensor.cached, tensor.local);
  if (is_hit) ++cached_requests_;
  arrive(tensor, 0, is_hit ? tensor.cached : tensor.local);
  tensor.heard = heard;
  if (!tensor.is_partial) return;
  tensor.since = heard;
  const TimePoint soonest = is_root() ? now_ + kReplyTime : now_;
  next_stall_check_ = std::min(next_stall_check_, std::max(soonest, heard + stall_look_));
}

// Rank 0: what came to be ordered while the schedule ran.
void Negotiation::Impl::order_deferred() {
  publish_fusion_if_due();
  for (Tensor* tensor : std::exchange(deferred_, {})) order(*tensor);
  if (const auto end = std::exchange(deferred_end_, std::nullopt)) end_everywhere(*end);
}

}  // namespace scalecom
