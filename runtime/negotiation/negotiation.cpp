#include "runtime/negotiation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "base/error.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/times.hpp"

namespace scalecom {

const char* to_string(OperationKind kind) noexcept {
  switch (kind) {
    case OperationKind::all_reduce: return "all_reduce";
    case OperationKind::all_gather: return "all_gather";
    case OperationKind::broadcast: return "broadcast";
    case OperationKind::barrier: return "barrier";
    case OperationKind::reduce_scatter: return "reduce_scatter";
    case OperationKind::all_to_all: return "all_to_all";
    case OperationKind::join: return "join";
  }
  return "unknown operation";
}

std::size_t first_extents_of_rank(OperationKind kind, int size) noexcept {
  switch (kind) {
    case OperationKind::all_gather: return 1;
    case OperationKind::all_to_all: return static_cast<std::size_t>(size);
    default: return 0;
  }
}

Negotiation::Impl::Impl(NegotiationOptions options)
    : options_(options),
      tree_(ControlTree::make(options.rank, options.size)),
      table_(options.cache_capacity),
      policy_(options.cycle_time_ms, options.fusion_threshold_bytes),
      // A rank alone has nobody to ask.
      learner_(options.rank == 0 && options.size > 1 ? options.steady_steps : 0) {
  members_.push_back({.ranks = {options.rank, options.rank + 1}});
  for (std::size_t child = 0; child < tree_.children.size(); ++child) {
    const bool is_last = child + 1 == tree_.children.size();
    const int end = is_last ? tree_.subtree_end : tree_.children[child + 1];
    members_.push_back({.ranks = {tree_.children[child], end}});
  }
  SCALECOM_ASSERT(members_.size() < 32, std::to_string(members_.size()) + " members");
  all_members_ = (std::uint32_t{1} << members_.size()) - 1;

  constexpr Clock::duration kShortest = std::chrono::milliseconds(1);
  stall_time_ = std::max(negotiation::seconds_of(options.stall_check_time_s), kShortest);
  stall_shutdown_ = negotiation::seconds_of(options.stall_shutdown_time_s);
  stall_look_ = stall_time_;
  if (stall_shutdown_ > Clock::duration::zero()) {
    stall_look_ = std::clamp(stall_shutdown_, kShortest, stall_time_);
  }
  const Clock::duration collective_timeout = negotiation::seconds_of(options.collective_timeout_s);
  silence_max_ = collective_timeout;
  if (options.stall_check && stall_shutdown_ > Clock::duration::zero()) {
    silence_max_ = std::min(silence_max_, stall_shutdown_);
  }
  unfinished_time_ = collective_timeout / 2;
  if (options.stall_check) unfinished_time_ = std::min(unfinished_time_, stall_look_ / 2);
  // What the nodes below know is to be with rank 0 by the time that it speaks or ends the session.
  if (!is_root()) stall_time_ = stall_look_ = stall_look_ / 2;
}

int Negotiation::Impl::member_of(int rank) const noexcept {
  const auto child = std::lower_bound(tree_.children.begin(), tree_.children.end(), rank);
  if (child == tree_.children.end() || *child != rank) return -1;
  return static_cast<int>(child - tree_.children.begin()) + 1;
}

negotiation::RankSet Negotiation::Impl::ranks_of(std::uint32_t members) const {
  RankSet ranks;
  for (std::size_t member = 0; member < members_.size(); ++member) {
    if ((members >> member & 1) != 0) ranks.add(members_[member].ranks);
  }
  return ranks;
}

void Negotiation::Impl::submit(TensorRequest request, TimePoint now) {
  if (has_ended_) return;
  now_ = now;
  SCALECOM_ASSERT(!own_join_, request.name + " is submitted by a rank that has joined");
  Tensor& tensor = table_.get(request.name);
  SCALECOM_ASSERT((tensor.arrived & 1) == 0, request.name + " is in flight twice");
  if (!is_up_to_those_above()) hear_from_above();
  ++own_requests_;
  tensor.local_name = std::move(request.name);
  tensor.local = std::move(request.signature);
  set_local_extents(tensor, request.splits);
  const bool is_hit = tensor.is_cached() && negotiation::agree(tensor.cached, tensor.local);
  if (schedule_) {
    if (tensor.arrived == 0) tensor.heard = now_;
    if (tensor.scheduled >= 0) return submit_scheduled(tensor, is_hit);
    leave(fmt::format("rank {} submitted tensor {}, which is none of the schedule's", options_.rank,
                      tensor.local_name));
  }
  if (is_hit && table_.number_of(tensor) >= 0) ++cached_requests_;
  arrive(tensor, 0, is_hit ? tensor.cached : tensor.local);
}

void Negotiation::Impl::set_local_extents(Tensor& tensor, const std::vector<std::int64_t>& splits) {
  const TensorSignature& signature = tensor.local;
  if (signature.kind == OperationKind::all_gather) {
    extents_of(tensor, signature.kind)[0] = signature.shape.empty() ? 0 : signature.shape[0];
  } else if (signature.kind == OperationKind::all_to_all) {
    SCALECOM_ASSERT(static_cast<int>(splits.size()) == options_.size,
                    fmt::format("{} splits for {} ranks", splits.size(), options_.size));
    std::copy(splits.begin(), splits.end(), extents_of(tensor, signature.kind).begin());
  }
}

// The subtree's extents. Ranks that submit another kind make it a mismatch, which needs none: its
// extents may be lost, but never have the wrong size.
std::vector<std::int64_t>& Negotiation::Impl::extents_of(Tensor& tensor, OperationKind kind) {
  const auto ranks = static_cast<std::size_t>(tree_.subtree_end - options_.rank);
  tensor.extents.resize(ranks * first_extents_of_rank(kind, options_.size));
  return tensor.extents;
}

void Negotiation::Impl::take_extents(Tensor& tensor, OperationKind kind, std::size_t member,
                                     Reader& reader) {
  const RankRange ranks = members_[member].ranks;
  const std::size_t of_rank = first_extents_of_rank(kind, options_.size);
  if (of_rank == 0) return;
  read_extents(reader, std::span(extents_of(tensor, kind))
                           .subspan(static_cast<std::size_t>(ranks.first - options_.rank) * of_rank,
                                    static_cast<std::size_t>(ranks.end - ranks.first) * of_rank));
}

void Negotiation::Impl::list(Tensor& tensor) {
  if (tensor.is_partial) return;
  if (table_.first_partial() == nullptr) next_stall_check_ = now_ + stall_look_;
  table_.list_partial(tensor, now_, nullptr);
}

// `signature` lives until the request is over.
void Negotiation::Impl::arrive(Tensor& tensor, std::size_t member,
                               const TensorSignature& signature) {
  if (tensor.arrived == 0) tensor.heard = now_;
  if (tensor.groups.empty()) {
    const bool is_first = tensor.arrived == 0;
    if (is_first) tensor.common = &signature;
    if (is_first || tensor.common == &signature || negotiation::agree(*tensor.common, signature)) {
      mark_arrived(tensor, member);
      return;
    }
    split(tensor);
  }
  add_to_group(tensor, signature, RankSet(members_[member].ranks));
  mark_arrived(tensor, member);
}

void Negotiation::Impl::arrive_split(Tensor& tensor, std::size_t member,
                                     std::vector<negotiation::SignatureGroup> groups) {
  if (tensor.arrived == 0) tensor.heard = now_;
  split(tensor);
  for (const auto& group : groups) add_to_group(tensor, group.signature, group.ranks);
  mark_arrived(tensor, member);
}

// From "all the same" to one group of those that have arrived.
void Negotiation::Impl::split(Tensor& tensor) {
  if (tensor.common == nullptr) return;
  tensor.groups.push_back({*tensor.common, ranks_of(tensor.arrived)});
  tensor.common = nullptr;
}

void Negotiation::Impl::add_to_group(Tensor& tensor, const TensorSignature& signature,
                                     const RankSet& ranks) {
  for (auto& group : tensor.groups) {
    if (!negotiation::agree(group.signature, signature)) continue;
    group.ranks.add(ranks);
    return;
  }
  tensor.groups.push_back({signature, ranks});
}

void Negotiation::Impl::mark_arrived(Tensor& tensor, std::size_t member) {
  tensor.arrived |= std::uint32_t{1} << member;
  last_arrival_ = now_;
  if (arrivals_ != nullptr) {
    const RankRange ranks = members_[member].ranks;
    arrivals_->arrive(*tensor.name, ranks.first, ranks.end, now_);
  }
  if (!is_complete(tensor)) {
    list(tensor);
    if (tensor.stall && tensor.stall->is_reported_up) queue_stall_report(tensor);
  } else {
    take_complete(tensor);
  }
}

void Negotiation::Impl::take_complete(Tensor& tensor) {
  table_.unlist_partial(tensor);
  if (tensor.arrived != all_members_) refuse_if_impossible(tensor);
  if (is_root()) {
    tensor.is_sent_up = true;
    order(tensor);
  } else {
    complete_.push_back(&tensor);
  }
}

void Negotiation::Impl::receive(int from, const ControlMessage& message, TimePoint now) {
  if (has_ended_) return;
  now_ = now;
  const int member = member_of(from);
  try {
    if (from == tree_.parent) {
      hear_from_above();
      receive_stream(message);
    } else if (member > 0) {
      Reader reader(message);
      receive_requests(static_cast<std::size_t>(member), reader);
    } else {
      negotiation::refuse_message("it is no neighbour in the control tree");
    }
  } catch (const Error& error) {
    refuse(from, error.what());
  }
}

void Negotiation::Impl::advance(TimePoint now) {
  if (has_ended_) return;
  now_ = now;
  release_due();
  take_due();
  check_steady();
  check_stalls();
  check_joins();
  check_silence();
  if (!has_ended_ && end_deadline_ && now_ >= *end_deadline_) end_here(*cause_, tree_.parent >= 0);
}

std::optional<TimePoint> Negotiation::Impl::next_timer() const {
  if (has_ended_) return std::nullopt;
  std::optional<TimePoint> next = release_time();
  const auto add = [&next](TimePoint at) { next = next ? std::min(*next, at) : at; };
  if (options_.stall_check && table_.first_partial() != nullptr) add(next_stall_check_);
  if (const std::optional<TimePoint> steady = steady_timer()) add(*steady);
  if (const std::optional<TimePoint> join = join_timer()) add(*join);
  if (const std::optional<TimePoint> silence = silence_timer()) add(*silence);
  if (end_deadline_) add(*end_deadline_);
  return next;
}

std::vector<OutgoingMessage> Negotiation::Impl::take_outgoing() {
  release_due();
  send_down(std::exchange(stream_, {}));
  send_up();
  return std::exchange(outgoing_, {});
}

std::vector<NegotiationEvent> Negotiation::Impl::take_events() {
  release_due();
  take_due();
  untaken_ = 0;
  return std::exchange(events_, {});
}

Negotiation::Negotiation(NegotiationOptions options) : impl_(std::make_unique<Impl>(options)) {}
Negotiation::~Negotiation() = default;

void Negotiation::submit(TensorRequest request, TimePoint now) {
  impl_->submit(std::move(request), now);
}

void Negotiation::join(DeviceKind zeros_on, TimePoint now) { impl_->join(zeros_on, now); }

void Negotiation::receive(int from, const ControlMessage& message, TimePoint now) {
  impl_->receive(from, message, now);
}

void Negotiation::lose_peer(int peer, const std::string& cause, TimePoint now) {
  impl_->lose_peer(peer, cause, now);
}

void Negotiation::end_session(Status status, TimePoint now) {
  impl_->end_session(std::move(status), now);
}

void Negotiation::restart_steps(const std::string& name) { impl_->restart_steps(name); }

void Negotiation::change_fusion(const FusionSettings& settings, TimePoint now) {
  impl_->change_fusion(settings, now);
}

void Negotiation::set_backlog(std::size_t agreements) noexcept { impl_->set_backlog(agreements); }
void Negotiation::set_arrivals(ArrivalSink* arrivals) noexcept { impl_->set_arrivals(arrivals); }
void Negotiation::advance(TimePoint now) { impl_->advance(now); }
std::optional<TimePoint> Negotiation::next_timer() const { return impl_->next_timer(); }
std::vector<OutgoingMessage> Negotiation::take_outgoing() { return impl_->take_outgoing(); }
std::vector<NegotiationEvent> Negotiation::take_events() { return impl_->take_events(); }
std::int64_t Negotiation::cached_requests() const noexcept { return impl_->cached_requests(); }
const SteadyCounters& Negotiation::steady_counters() const noexcept {
  return impl_->steady_counters();
}

}  // namespace scalecom
