// The steady state: a schedule that rank 0 has learnt, and that every rank repeats by itself.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "runtime/negotiation/agreement_writer.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"
#include "runtime/negotiation/mismatch.hpp"

namespace scalecom {
namespace {

using negotiation::AgreementEntry;
using negotiation::refuse_message;
using negotiation::Schedule;
using negotiation::ScheduledAgreement;
using negotiation::ScheduledTensor;
using std::chrono::microseconds;

constexpr auto kPatienceMax = std::chrono::duration_cast<microseconds>(negotiation::kPatienceMax);

}  // namespace

// Rank 0: what is about to be agreed on.
void Negotiation::Impl::learn(const std::vector<Tensor*>& tensors) {
  if (!learner_.is_on() || has_joins_) return;
  std::vector<std::int32_t> numbers;
  numbers.reserve(tensors.size());
  Clock::duration wait{};
  for (const Tensor* tensor : tensors) {
    const std::int32_t number = table_.number_of(*tensor);
    if (number < 0 || tensor->common != &tensor->cached ||
        !negotiation::is_schedulable(tensor->cached)) {
      learner_.reset();
      return;
    }
    numbers.push_back(number);
    wait = std::max(wait, now_ - tensor->heard);
  }
  learner_.take(numbers, wait);
}

// Not before all that is ready is released. What is partly submitted each rank takes back.
void Negotiation::Impl::start_schedule_if_due() {
  if (!learner_.is_ready() || !ready_.is_empty()) return;
  SCALECOM_ASSERT(!schedule_ && barriers_.empty(), "a schedule starts too early");
  Writer item;
  write_schedule(item);
  publish(item);
}

void Negotiation::Impl::write_schedule(Writer& writer) const {
  const auto agreements = learner_.schedule();
  writer.put_enum(negotiation::DownItem::schedule);
  writer.put_varint(sequence_ + 1);
  const auto patience = std::chrono::duration_cast<microseconds>(learner_.patience());
  writer.put_varint(static_cast<std::uint64_t>(patience.count()));
  writer.put_varint(agreements.size());
  for (const std::vector<std::int32_t>& numbers : agreements) {
    negotiation::AgreementWriter agreement(writer);
    for (const std::int32_t number : numbers) {
      const Tensor& tensor = table_.numbered(number);
      agreement.add_cached(number, is_compressed(tensor.cached)
                                       ? std::optional(steps_.next(*tensor.name, tensor.cached))
                                       : std::nullopt);
    }
    agreement.finish();
  }
}

void Negotiation::Impl::apply_schedule(Reader& reader) {
  const std::uint64_t sequence = reader.get_varint();
  if (sequence != sequence_ + 1) {
    refuse_message(
        fmt::format("a schedule from agreement {} follows agreement {}", sequence, sequence_));
  }
  Schedule schedule;
  schedule.sequence_before = sequence_;
  schedule.patience = microseconds(reader.get_below(kPatienceMax.count() + 1, "patience in us"));
  const std::size_t count = reader.get_count("number of scheduled agreements");
  if (count == 0) refuse_message("a schedule is empty");
  std::size_t tensors = 0;
  for (std::size_t i = 0; i < count; ++i) {
    schedule.agreements.emplace_back();
    tensors += read_scheduled(reader, schedule);
  }
  if (tensors > negotiation::kScheduledTensorsMax) {
    refuse_message(fmt::format("a schedule of {} tensors is longer than {}", tensors,
                               negotiation::kScheduledTensorsMax));
  }
  schedule_ = std::move(schedule);
  withdraw_scheduled();
  forget_joins();
}

// One agreement; returns its number of tensors.
std::size_t Negotiation::Impl::read_scheduled(Reader& reader, Schedule& schedule) {
  std::uint64_t expected = 0;
  std::int64_t step = 0;
  for (;;) {
    const auto entry =
        static_cast<AgreementEntry>(reader.get_below(negotiation::kAgreementEntries, "entry"));
    if (entry == AgreementEntry::last) break;
    if (entry != AgreementEntry::cached_run) {
      refuse_message("a schedule has more than cached tensors");
    }
    const std::uint64_t first = expected + static_cast<std::uint64_t>(reader.get_signed());
    const std::uint64_t more = reader.get_below(table_.cached_count(), "number of cached tensors");
    step = read_step(reader, step);
    for (std::uint64_t i = 0; i <= more; ++i) add_scheduled(first + i, step, schedule);
    expected = first + more + 1;
  }
  ScheduledAgreement& agreement = schedule.agreements.back();
  if (agreement.tensors.empty()) refuse_message("a scheduled agreement is empty");
  std::stable_sort(agreement.tensors.begin(), agreement.tensors.end(),
                   [](const ScheduledTensor& a, const ScheduledTensor& b) {
                     return a.tensor->cached.priority > b.tensor->cached.priority;
                   });
  agreement.missing = agreement.tensors.size();
  return agreement.missing;
}

void Negotiation::Impl::add_scheduled(std::uint64_t number, std::int64_t step, Schedule& schedule) {
  Tensor& tensor = find_numbered(number);
  if (tensor.scheduled >= 0 || !negotiation::is_schedulable(tensor.cached)) {
    refuse_message(
        fmt::format("tensor {} is scheduled twice, or is not one that can be", *tensor.name));
  }
  tensor.scheduled = static_cast<std::int32_t>(schedule.agreements.size() - 1);
  schedule.agreements.back().tensors.push_back({&tensor, is_compressed(tensor.cached) ? step : 0});
}

// What was heard of the schedule's tensors is forgotten on every node; what this rank has submitted
// counts for the schedule.
void Negotiation::Impl::withdraw_scheduled() {
  const auto forget = [](std::vector<Tensor*>& tensors) {
    std::erase_if(tensors, [](const Tensor* tensor) { return tensor->scheduled >= 0; });
  };
  forget(complete_);
  forget(stall_reports_);
  const Tensor* changed = nullptr;
  for (ScheduledAgreement& agreement : schedule_->agreements) {
    for (const ScheduledTensor& scheduled : agreement.tensors) {
      Tensor& tensor = *scheduled.tensor;
      table_.withdraw(tensor);
      if (tensor.arrived == 0) continue;
      ++schedule_->submitted;
      if (negotiation::agree(tensor.cached, tensor.local)) {
        --agreement.missing;
      } else {
        changed = &tensor;
      }
    }
  }
  if (changed != nullptr) leave_for_change(*changed);
}

void Negotiation::Impl::submit_scheduled(Tensor& tensor, bool is_hit) {
  tensor.arrived |= 1;
  ++schedule_->submitted;
  if (is_hit) {
    --schedule_->agreements[static_cast<std::size_t>(tensor.scheduled)].missing;
  } else {
    leave_for_change(tensor);
  }
}

void Negotiation::Impl::leave_for_change(const Tensor& tensor) {
  leave(fmt::format("rank {} submitted tensor {} with {}", options_.rank, *tensor.name,
                    negotiation::describe_change(tensor.cached, tensor.local)));
}

// Not further ahead than the execution needs: what is taken too early is communication for nothing
// when the schedule is left.
void Negotiation::Impl::take_due() {
  if (has_ended_ || !schedule_ || schedule_->is_stopped) return;
  while (backlog_ + unsaid_ < kBacklogMax) {
    ScheduledAgreement& next = schedule_->at(schedule_->taken);
    if (next.missing > 0) return;
    Agreement agreement;
    agreement.sequence = ++sequence_;
    agreement.tensors.reserve(next.tensors.size());
    for (const ScheduledTensor& scheduled : next.tensors) {
      Tensor& tensor = *scheduled.tensor;
      agreement.tensors.push_back({std::move(tensor.local_name),
                                   std::move(tensor.local),
                                   schedule_->step_of(scheduled, schedule_->taken),
                                   {}});
      table_.finish(tensor);
    }
    next.missing = next.tensors.size();
    schedule_->submitted -= next.tensors.size();
    own_requests_ -= next.tensors.size();
    ++schedule_->taken;
    schedule_->waiting_since.reset();
    ++steady_counters_.agreements;
    push_agreement(std::move(agreement));
  }
}

void Negotiation::Impl::push_agreement(Agreement agreement) {
  ++untaken_;
  ++unsaid_;
  events_.emplace_back(std::move(agreement));
}

void Negotiation::Impl::set_backlog(std::size_t agreements) noexcept {
  backlog_ = agreements;
  unsaid_ = untaken_;
  const std::uint64_t unfinished = std::min<std::uint64_t>(sequence_, backlog_ + unsaid_);
  if (finished_ == sequence_ - unfinished) return;
  finished_ = sequence_ - unfinished;
  unfinished_since_.reset();
}

void Negotiation::Impl::restart_steps(const std::string& name) {
  steps_.forget(name);
  learner_.reset();
  if (!schedule_) return;
  const Tensor* tensor = table_.find(name);
  if (tensor == nullptr || tensor->scheduled < 0) return;
  // Its scheduled step is wrong from the next call on. No caller gets it: rank 0 restores the steps
  // as well, before it submits that call, and takes nothing from the schedule from then on.
  for (ScheduledTensor& scheduled :
       schedule_->agreements[static_cast<std::size_t>(tensor->scheduled)].tensors) {
    if (scheduled.tensor == tensor) scheduled.is_restarted = true;
  }
  leave(fmt::format("rank {} restored the steps of tensor {}", options_.rank, name));
}

// Nothing that this rank has taken could still bring what it waits for.
bool Negotiation::Impl::is_waiting() const noexcept {
  if (schedule_->submitted == 0 || backlog_ + unsaid_ > 0) return false;
  return schedule_->agreements[static_cast<std::size_t>(schedule_->taken % schedule_->size())]
             .missing > 0;
}

void Negotiation::Impl::check_steady() {
  if (!schedule_) return;
  if (schedule_->is_stopped) return check_stop();
  if (schedule_->is_left) return;
  if (backlog_ == 0) {
    unfinished_since_.reset();
  } else if (!unfinished_since_) {
    unfinished_since_ = now_;
  } else if (now_ - *unfinished_since_ >= unfinished_time_) {
    leave(fmt::format("agreement {} has not been executed on rank {} for {:.1f} s", finished_ + 1,
                      options_.rank,
                      std::chrono::duration<double>(now_ - *unfinished_since_).count()));
  }
  std::optional<TimePoint>& since = schedule_->waiting_since;
  if (!is_waiting()) {
    since.reset();
  } else if (!since) {
    since = now_;
  } else if (now_ - *since >= schedule_->patience) {
    leave(describe_wait_for_next());
  }
}

std::string Negotiation::Impl::describe_wait_for_next() {
  const ScheduledAgreement& next = schedule_->at(schedule_->taken);
  const auto missing =
      std::find_if(next.tensors.begin(), next.tensors.end(),
                   [](const ScheduledTensor& scheduled) { return scheduled.tensor->arrived == 0; });
  const std::string name = missing == next.tensors.end() ? "" : *missing->tensor->name;
  return fmt::format(
      "rank {} has not submitted tensor {}, the next of the schedule, {:.0f} ms "
      "after others of it ({} wait)",
      options_.rank, name, std::chrono::duration<double, std::milli>(schedule_->patience).count(),
      schedule_->submitted);
}

std::optional<TimePoint> Negotiation::Impl::steady_timer() const {
  if (!schedule_) return std::nullopt;
  if (schedule_->is_stopped) {
    return is_root() && options_.stall_check ? std::optional(schedule_->next_stop_check)
                                             : std::nullopt;
  }
  if (schedule_->is_left) return std::nullopt;
  std::optional<TimePoint> next;
  if (schedule_->waiting_since) next = *schedule_->waiting_since + schedule_->patience;
  if (unfinished_since_) {
    const TimePoint stall = *unfinished_since_ + unfinished_time_;
    next = next ? std::min(*next, stall) : stall;
  }
  return next;
}

}  // namespace scalecom
