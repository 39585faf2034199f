#include "runtime/coordinator.hpp"

#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace scalecom {
namespace {

// How long a failed collective waits for the control plane to name the lost rank.
constexpr auto kCauseTime = std::chrono::seconds(1);

NegotiationOptions negotiation_options(const Coordinator::Parts& parts) {
  const Config& config = parts.config;
  NegotiationOptions options;
  options.rank = parts.rank;
  options.size = parts.size;
  options.cache_capacity = config.cache_capacity;
  options.fusion_threshold_bytes = config.fusion_threshold_bytes;
  options.cycle_time_ms = config.cycle_time_ms;
  options.stall_check = !config.stall_check_disable;
  options.stall_check_time_s = config.stall_check_time_s;
  options.stall_shutdown_time_s = config.stall_shutdown_time_s;
  options.collective_timeout_s = config.collective_timeout_s;
  // The schedule needs results that can be held back and thrown away.
  options.steady_steps =
      parts.collectives->goes_in_steps() ? static_cast<int>(config.steady_steps) : 0;
  return options;
}

// ppoll, because the negotiation's timers are finer than epoll's milliseconds.
bool wait_for_any(int first, int second, Clock::duration limit) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::clamp<Clock::duration>(limit, Clock::duration::zero(), std::chrono::minutes(1)));
  const timespec timeout{static_cast<time_t>(ns.count() / 1'000'000'000),
                         static_cast<long>(ns.count() % 1'000'000'000)};
  std::array<pollfd, 2> descriptors{pollfd{first, POLLIN, 0}, pollfd{second, POLLIN, 0}};
  return ppoll(descriptors.data(), descriptors.size(), &timeout, nullptr) > 0;
}

}  // namespace

Coordinator::Coordinator(Parts parts)
    : parts_(std::move(parts)),
      seat_(std::make_shared<DriverSeat>(static_cast<Drivable&>(*this))),
      negotiation_(negotiation_options(parts_)),
      last_meeting_(parts_.rank, parts_.size),
      fusion_tuning_(parts_.config, parts_.rank, parts_.size),
      execution_(
          *parts_.collectives, parts_.rank, parts_.size, parts_.config, timeline_,
          [this](std::span<PendingTensor* const> tensors) { complete(tensors); }, parts_.devices) {}

void Coordinator::sleep_for_news(TimePoint until, const std::function<bool()>& is_called) const {
  if (!parts_.queue->start_sleep()) return;
  if (!is_called()) {
    wait_for_any(parts_.queue->wake_up().descriptor(), parts_.channel->descriptor(),
                 until - Clock::now());
  }
  parts_.queue->end_sleep();
}

void Coordinator::run() {
  last_activity_ = Clock::now();
  while (!has_ended_) {
    seat_->take();
    const bool is_idle = work([this] { return seat_->is_wanted(); });
    const TimePoint timer = next_timer();
    const bool may_sleep = is_idle && !has_ended_ && !was_active_just_now();
    if (may_sleep) session_thread_timer_ = timer;
    seat_->give();
    if (may_sleep) {
      sleep_for_news(timer, [this] { return seat_->is_called(); });
    } else if (is_idle) {
      sched_yield();
    }
  }
  seat_->close();
}

// Whatever waits for other ranks and cannot be left is the session thread's.
void Coordinator::drive(const std::function<bool()>& is_enough, Deadline deadline) {
  const auto must_leave = [&] {
    const bool waits_inside =
        execution_.under_way() > 0
            ? !parts_.collectives->goes_in_steps() || execution_.may_wait_inside()
            : !batches_.empty() && (!execution_.goes_in_steps(batches_.front()) ||
                                    Execution::may_wait_inside(batches_.front()));
    return is_enough() || (parts_.size > 1 && waits_inside) || deadline.has_passed();
  };
  while (!has_ended_ && !must_leave()) {
    if (!work(must_leave)) continue;
    if (was_active_just_now()) {
      sched_yield();
    } else {
      sleep_for_news(std::min(next_timer(), deadline.at()), [] { return false; });
    }
  }
}

bool Coordinator::needs_session_thread() const {
  return has_ended_ || execution_.under_way() > 0 || !batches_.empty() || !events_.empty() ||
         !tasks_.empty() || next_timer() < session_thread_timer_;
}

TimePoint Coordinator::next_timer() const {
  return std::min({negotiation_.next_timer().value_or(TimePoint::max()), requested_end_at_.at(),
                   device_timer_});
}

// Until there is nothing to do for now (true), or `is_enough`.
bool Coordinator::work(const std::function<bool()>& is_enough) {
  while (!has_ended_) {
    try {
      bool is_idle = !poll_once();
      while (!has_ended_ && carry_on(is_enough)) {
        is_idle = false;
        last_activity_ = Clock::now();
        if (is_enough()) return false;
      }
      if (is_idle && requested_end_at_.has_passed()) {
        finish(requested_end_->status);
      } else if (is_idle) {
        return true;
      }
    } catch (const Error& error) {
      learn_first_cause(error);
    } catch (const std::exception& error) {
      learn_first_cause(Error(StatusCode::internal, error.what()));
    }
    if (is_enough()) return false;
  }
  return true;
}

// One look at everything that can bring work. True when something came.
bool Coordinator::poll_once() {
  take_submits();
  take_control_messages();
  const TimePoint now = Clock::now();
  negotiation_.set_backlog(agreements_waiting());
  negotiation_.advance(now);
  flush_negotiation();
  check_devices(now);
  const bool has_work = (!events_.empty() && !awaits_figures_) || !tasks_.empty();
  if (has_work) last_activity_ = now;
  return has_work;
}

std::size_t Coordinator::agreements_waiting() const {
  const auto waiting = std::count_if(events_.begin(), events_.end(), [](const auto& event) {
    return std::holds_alternative<Agreement>(event);
  });
  const Agreement* starting = batches_.empty() ? nullptr : agreement_.get();
  return static_cast<std::size_t>(waiting) + (starting != nullptr ? 1 : 0) +
         execution_.agreements_under_way(starting);
}

void Coordinator::run_tasks() {
  while (!tasks_.empty()) {
    const CoordinatorTask task = std::move(tasks_.front());
    tasks_.pop_front();
    task();
  }
}

void Coordinator::take_submits() {
  TensorQueue::Drained drained = parts_.queue->drain();
  if (drained.is_empty()) return;
  const TimePoint now = Clock::now();
  for (CoordinatorTask& task : drained.tasks) tasks_.push_back(std::move(task));
  for (PendingTensor& tensor : drained.tensors) {
    if (const auto found = first_steps_.find(tensor.name); found != first_steps_.end()) {
      tensor.signature.first_step = found->second;
    }
    if (timeline_.is_on()) timeline_.submit(tensor.name, tensor.times, now);
    if (tensor.signature.kind == OperationKind::join) {
      negotiation_.join(zeros_on(), now);
    } else {
      negotiation_.submit(TensorRequest{tensor.name, tensor.signature, tensor.splits}, now);
    }
    put_pending(std::move(tensor));
  }
  for (const CoordinatorTask& task : drained.urgent_tasks) task();
  last_activity_ = now;
}

void Coordinator::put_pending(PendingTensor&& tensor) {
  if (spare_nodes_.empty()) {
    std::string name = tensor.name;
    const auto [place, is_new] = pending_.try_emplace(std::move(name), std::move(tensor));
    SCALECOM_ASSERT(is_new, place->first + " is in flight twice");
    return;
  }
  PendingTensors::node_type node = std::move(spare_nodes_.back());
  spare_nodes_.pop_back();
  node.key() = tensor.name;
  node.mapped() = std::move(tensor);
  const auto put = pending_.insert(std::move(node));
  SCALECOM_ASSERT(put.inserted, put.position->first + " is in flight twice");
}

void Coordinator::take_control_messages() {
  for (ControlEvent& event : parts_.channel->poll()) {
    const TimePoint now = Clock::now();
    last_meeting_.take(event);
    if (const auto* received = std::get_if<ControlReceived>(&event)) {
      negotiation_.receive(received->from, received->message, now);
    } else {
      const auto& lost = std::get<ControlPeerLost>(event);
      negotiation_.lose_peer(lost.peer, lost.cause, now);
    }
    last_activity_ = now;
  }
}

void Coordinator::flush_negotiation() {
  for (OutgoingMessage& outgoing : negotiation_.take_outgoing()) {
    parts_.channel->send(outgoing.to, std::move(outgoing.message));
  }
  for (NegotiationEvent& event : negotiation_.take_events()) {
    // These hold from now on, whatever is still to be carried out.
    if (const auto* stall = std::get_if<Stall>(&event)) {
      log_warning(parts_.scope + stall->message);
      continue;
    }
    if (const auto* hold = std::get_if<Hold>(&event)) {
      log_info("the ranks negotiate again: " + hold->message);
      execution_.hold();
      continue;
    }
    if (const auto* revocation = std::get_if<Revocation>(&event)) {
      execution_.revoke(revocation->first_void_sequence, revocation->end_sequence);
      continue;
    }
    if (const auto* end = std::get_if<SessionEnd>(&event)) bound_end(*end);
    if (timeline_.is_on()) tell_times(event);
    events_.push_back(std::move(event));
  }
}

// From here on a rank that hangs, or left early, holds this one up for kShutdownTime at most.
void Coordinator::bound_end(const SessionEnd& end) {
  if (!requested_end_) requested_end_ = end;
  requested_end_at_ = Deadline::after(kShutdownTime);
}

// A session that failed; one that is shut down has not, and its end is ordered behind what was
// agreed before.
const SessionEnd* Coordinator::find_failure() const {
  for (const NegotiationEvent& event : events_) {
    const auto* end = std::get_if<SessionEnd>(&event);
    if (end != nullptr && end->status.code() != StatusCode::shut_down) return end;
  }
  return nullptr;
}

// While a collective waits for data.
void Coordinator::check() {
  if (has_ended_) return;  // Residuals may be read afterwards.
  poll_once();
  if (const SessionEnd* end = find_failure()) throw Error(end->status);
  if (!requested_end_) return;
  if (const std::int64_t sent = parts_.collectives->counters().messages_sent;
      sent != messages_at_end_) {
    messages_at_end_ = sent;
    requested_end_at_ = Deadline::after(kShutdownTime);
  }
  if (requested_end_at_.has_passed()) throw Error(requested_end_->status);
}

// The next thing that can be done; false when there is none. With a batch less under way the next
// may be agreed on, so the world is looked at.
bool Coordinator::carry_on(const std::function<bool()>& is_enough) {
  const std::size_t under_way = execution_.under_way();
  if (!tasks_.empty() && under_way == 0) {
    run_tasks();
  } else if (tasks_.empty() && !batches_.empty() && execution_.can_start(batches_.front())) {
    start_batch();
  } else if (tasks_.empty() && batches_.empty() && !events_.empty() &&
             can_carry_out(events_.front())) {
    NegotiationEvent event = std::move(events_.front());
    events_.pop_front();
    carry_out(std::move(event));
  } else if (under_way > 0) {
    const bool may_start_more = batches_.empty() && events_.empty() && tasks_.empty();
    const bool may_start_next = !batches_.empty() && tasks_.empty();
    const bool awaits_figures = awaits_figures_;
    execution_.progress([&] {
      return execution_.under_way() < under_way || is_enough() ||
             (may_start_more && (!events_.empty() || !tasks_.empty())) ||
             (may_start_next && execution_.can_start(batches_.front())) ||
             (awaits_figures && !awaits_figures_);
    });
    poll_once();
  } else {
    return false;
  }
  return true;
}

// A shutdown, and the end of a join, are ordered behind what was agreed on before. So are tensors
// of which a rank that has joined has no call: who submits calls a tensor again when it is
// complete, and residuals and health go by that.
bool Coordinator::can_carry_out(const NegotiationEvent& event) {
  const auto* end = std::get_if<SessionEnd>(&event);
  const bool is_shutdown = end != nullptr && end->status.code() == StatusCode::shut_down;
  const auto* agreement = std::get_if<Agreement>(&event);
  const bool has_substitutes =
      agreement != nullptr &&
      std::any_of(agreement->tensors.begin(), agreement->tensors.end(),
                  [](const AgreedTensor& tensor) { return tensor.is_substitute; });
  const bool needs_order = is_shutdown || has_substitutes || std::holds_alternative<Joined>(event);
  if (needs_order && execution_.under_way() > 0) return false;
  return agreement == nullptr || !lacks_figures(*agreement);
}

void Coordinator::carry_out(NegotiationEvent event) {
  if (auto* agreement = std::get_if<Agreement>(&event)) {
    plan(std::move(*agreement));
  } else if (const auto* mismatch = std::get_if<Mismatch>(&event)) {
    fail_one(*mismatch);
  } else if (const auto* joined = std::get_if<Joined>(&event)) {
    end_join(*joined);
  } else if (const auto* settings = std::get_if<FusionSettings>(&event)) {
    fusion_tuning_.apply(*settings);
  } else {
    const Status& status = std::get<SessionEnd>(event).status;
    has_ended_in_order_ = status.code() == StatusCode::shut_down;
    finish(status);
  }
}

void Coordinator::start_batch() {
  Batch batch = std::move(batches_.front());
  batches_.pop_front();
  const auto limit = std::chrono::duration<double>(parts_.config.collective_timeout_s);
  std::vector<PendingTensor*> tensors = find_tensors(batch, *agreement_);
  const bool is_on_device = batch.device == DeviceKind::cuda;
  execution_.start(std::move(batch), agreement_, std::move(tensors),
                   {Deadline::after(limit), this});
  if (is_on_device) look_at_devices_within(kDevicePeriod);
}

std::vector<PendingTensor*> Coordinator::find_tensors(const Batch& batch,
                                                      const Agreement& agreement) {
  std::vector<PendingTensor*> tensors;
  tensors.reserve(batch.tensors.size());
  for (const std::size_t place : batch.tensors) {
    if (agreement.tensors[place].is_substitute) {
      tensors.push_back(make_substitute(agreement.tensors[place]));
      continue;
    }
    const auto found = pending_.find(agreement.tensors[place].name);
    SCALECOM_ASSERT(found != pending_.end() || agreement.is_void,
                    agreement.tensors[place].name + " was agreed on but never submitted here");
    tensors.push_back(found == pending_.end() ? nullptr : &found->second);
  }
  return tensors;
}

// From here on the caller may submit the names again, also while the rest of the batch goes on.
void Coordinator::complete(std::span<PendingTensor* const> tensors) {
  publish_stats();
  if (const auto settings = fusion_tuning_.complete(tensors)) {
    negotiation_.change_fusion(*settings, Clock::now());
  }
  std::vector<const PendingTensor*> own(tensors.begin(), tensors.end());
  if (!substitutes_.empty()) {
    std::erase_if(own, [this](const auto* tensor) { return substitutes_.erase(tensor) == 1; });
  }
  parts_.stats->tensors_completed += static_cast<std::int64_t>(own.size());
  std::vector<PendingTensors::node_type> done;
  done.reserve(own.size());
  for (const PendingTensor* tensor : own) done.push_back(pending_.extract(tensor->name));
  parts_.queue->complete(own, Status());
  for (PendingTensors::node_type& node : done) {
    if (spare_nodes_.size() == kSpareNodesMax) break;
    node.mapped() = {};
    spare_nodes_.push_back(std::move(node));
  }
}

void Coordinator::fail_one(const Mismatch& mismatch) {
  const auto found = pending_.find(mismatch.name);
  SCALECOM_ASSERT(found != pending_.end(), mismatch.name + " differs but was never submitted here");
  const PendingTensor* tensor = &found->second;
  parts_.queue->complete({&tensor, 1},
                         Status(StatusCode::mismatch, parts_.scope + mismatch.message));
  pending_.erase(found);
}

// A collective failed. The control plane often knows better why (which rank died), a little later;
// what it says first, or else the error itself, is the cause that everyone sees.
void Coordinator::learn_first_cause(const Error& error) {
  const bool is_late = error.code() == StatusCode::timed_out;
  const bool may_learn = !is_late && !requested_end_;
  const Deadline deadline = Deadline::after(may_learn ? kCauseTime : Clock::duration::zero());
  while (find_failure() == nullptr && !deadline.has_passed()) {
    take_control_messages();
    flush_negotiation();
    if (find_failure() == nullptr) {
      sleep_for_news(Clock::now() + std::chrono::milliseconds(20), [] { return false; });
    }
  }
  const SessionEnd* end = find_failure();
  const char* remedy =
      is_late ? "; a rank may hang, or SCALECOM_COLLECTIVE_TIMEOUT is too short" : "";
  const Status cause =
      end != nullptr ? end->status : Status(error.code(), std::string(error.what()) + remedy);
  if (end == nullptr) end_session(cause);
  finish(cause);
}

void Coordinator::end_session(Status status) {
  if (!requested_end_) bound_end(SessionEnd{status});
  negotiation_.end_session(std::move(status), Clock::now());
  flush_negotiation();
}

void Coordinator::finish(const Status& cause) {
  if (has_ended_) return;
  const Status status(cause.code(), parts_.scope + cause.message());
  if (status.code() == StatusCode::shut_down) {
    log_info("the session ended: " + status.message());
  } else {
    log_error("the session failed: " + status.message());
  }
  flush_negotiation();
  // Peers may still write into memory that the callers own once their tickets are complete.
  parts_.transport->cancel_all();
  end_devices(status);
  TensorQueue::Drained left = parts_.queue->close(status);
  for (PendingTensor& tensor : left.tensors) {
    pending_.insert_or_assign(tensor.name, std::move(tensor));
  }
  std::vector<const PendingTensor*> tensors;
  for (const auto& [name, tensor] : pending_) tensors.push_back(&tensor);
  if (timeline_.is_on()) tell_unfinished();
  parts_.queue->complete(tensors, status);
  pending_.clear();
  substitutes_.clear();
  publish_stats();
  has_ended_ = true;
  for (CoordinatorTask& task : left.tasks) tasks_.push_back(std::move(task));
  run_tasks();  // A session that is over needs no urgent ones: they would end it.
}

void Coordinator::restore_residual(Residual residual) {
  first_steps_[residual.name] = residual.step;
  execution_.health().forget(residual.name);
  execution_.devices().samples().forget(residual.name);
  negotiation_.restart_steps(residual.name);
  ResidualStore::Entry entry;
  entry.shape = std::move(residual.shape);
  entry.values = std::move(residual.values);
  entry.next_step = residual.step;
  entry.beta = residual.beta;
  entry.is_zero = std::ranges::all_of(entry.values, [](float value) { return value == 0.0f; });
  execution_.residuals().restore(residual.name, std::move(entry));
  publish_stats();
}

}  // namespace scalecom
