#include "tests/sim/world.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace scalecom::sim {
namespace {

constexpr std::size_t kViolationsMax = 20;

// Virtual time that a world may take; longer means that something hangs.
constexpr Duration kTimeMax = std::chrono::seconds(100);

// How long a rank waits for the execution of what was agreed on before a shutdown.
constexpr Duration kEndTimeMax = std::chrono::seconds(2);

}  // namespace

World::World(WorldOptions options) : options_(std::move(options)), random_(options_.seed) {
  ranks_.resize(static_cast<std::size_t>(options_.size));
  for (int rank = 0; rank < options_.size; ++rank) {
    NegotiationOptions negotiation = options_.negotiation;
    negotiation.rank = rank;
    negotiation.size = options_.size;
    at_(rank).node = std::make_unique<Negotiation>(negotiation);
    at_(rank).tree = ControlTree::make(rank, options_.size);
  }
}

Duration World::random_duration(Duration max) {
  return Duration(std::uniform_int_distribution<Duration::rep>(0, max.count())(random_));
}

std::vector<std::string> World::log_of(int rank) const {
  return {order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(at_(rank).decisions)};
}

void World::violate(const std::string& what) {
  if (violations_.size() < kViolationsMax) violations_.push_back(what);
}

void World::expect(const std::string& name, ExpectedCall call) {
  expected_[name].push_back(std::move(call));
}

void World::schedule(TimePoint at, std::function<void()> action) {
  happenings_.push({at, happened_++, std::move(action)});
}

void World::at(int rank, Duration after, std::function<void()> action) {
  ++work_left_;
  schedule(now_ + after, [this, rank, action = std::move(action)] {
    --work_left_;
    if (at_(rank).is_alive && !at_(rank).end) action();
  });
}

void World::submit(int rank, const std::string& name, TensorSignature signature,
                   std::vector<std::int64_t> splits) {
  Rank& self = at_(rank);
  if (!self.is_alive || self.end) return;
  const std::size_t call = self.calls[name]++;
  std::vector<int>& submitted = submitted_[name];
  if (submitted.size() <= call) submitted.resize(call + 1);
  ++submitted[call];
  if (!self.in_flight.emplace(name, signature).second) {
    violate(fmt::format("the test submits {} twice on rank {}", name, rank));
    return;
  }
  self.node->submit({name, std::move(signature), std::move(splits)}, now_);
  touch(rank);
}

void World::join(int rank, DeviceKind zeros_on) {
  Rank& self = at_(rank);
  if (!self.is_alive || self.end) return;
  self.is_joined = true;
  self.node->join(zeros_on, now_);
  touch(rank);
}

void World::end_session(int rank, Status status) {
  Rank& self = at_(rank);
  if (!self.is_alive || self.end) return;
  self.node->end_session(std::move(status), now_);
  touch(rank);
}

void World::restart_steps(int rank, const std::string& name) {
  Rank& self = at_(rank);
  if (!self.is_alive || self.end) return;
  if (self.in_flight.count(name) == 1) {
    violate(fmt::format("the test restarts {} in flight on rank {}", name, rank));
  }
  self.node->restart_steps(name);
  touch(rank);
}

void World::change_fusion(const FusionSettings& settings) {
  if (!at_(0).is_alive || at_(0).end) return;
  at_(0).node->change_fusion(settings, now_);
  touch(0);
}

void World::kill(int rank) {
  Rank& self = at_(rank);
  if (!self.is_alive) return;
  self.is_alive = false;
  close(rank);
}

void World::inject(int from, int to, ControlMessage message) { send(from, to, std::move(message)); }

// The rank's neighbours notice, after its last message.
void World::close(int rank) {
  Rank& self = at_(rank);
  if (self.is_closed) return;
  self.is_closed = true;
  std::vector<int> neighbours = self.tree.children;
  if (self.tree.parent >= 0) neighbours.push_back(self.tree.parent);
  for (const int to : neighbours) {
    TimePoint& last = last_arrival_[{rank, to}];
    last = std::max(last, now_ + random_duration(options_.detection_max)) + Duration(1);
    ++work_left_;
    schedule(last, [this, rank, to] {
      --work_left_;
      if (!at_(to).is_alive || at_(to).is_closed) return;
      at_(to).node->lose_peer(rank, "connection closed", now_);
      touch(to);
    });
  }
}

// What comes within the next microseconds is flushed together, as by a coordinator that was busy.
void World::touch(int rank) {
  Rank& self = at_(rank);
  if (self.has_flush) return;
  self.has_flush = true;
  ++work_left_;
  schedule(now_ + random_duration(std::chrono::microseconds(3)), [this, rank] {
    --work_left_;
    at_(rank).has_flush = false;
    flush(rank);
  });
}

void World::flush(int rank) {
  Rank& self = at_(rank);
  if (!self.is_alive || self.is_closed) return;
  self.node->set_backlog(self.backlog);
  self.node->advance(now_);
  for (OutgoingMessage& outgoing : self.node->take_outgoing()) {
    RankTraffic& edge = edges_[{rank, outgoing.to}];
    ++edge.messages;
    edge.bytes += static_cast<std::int64_t>(outgoing.message.size());
    send(rank, outgoing.to, std::move(outgoing.message));
  }
  std::vector<NegotiationEvent> events = self.node->take_events();
  if (options_.tamper) options_.tamper(rank, events);
  for (NegotiationEvent& event : events) take(rank, event);
  carry_out_next(rank);
  if (!self.end) set_timer(rank);
}

void World::set_timer(int rank) {
  Rank& self = at_(rank);
  const std::optional<TimePoint> next = self.node->next_timer();
  if (!next || (self.timer && *self.timer <= std::max(*next, now_))) return;
  self.timer = std::max(*next, now_);
  schedule(*self.timer, [this, rank, at = *self.timer] {
    Rank& woken = at_(rank);
    if (woken.timer != at) return;
    woken.timer.reset();
    flush(rank);
  });
}

void World::send(int from, int to, ControlMessage message) {
  RankTraffic& traffic = at_(from).traffic;
  ++traffic.messages;
  traffic.bytes += static_cast<std::int64_t>(message.size());
  const ControlTree& tree = at_(from).tree;
  const bool is_neighbour =
      to == tree.parent || std::count(tree.children.begin(), tree.children.end(), to) == 1;
  if (!is_neighbour) violate(fmt::format("rank {} sends to rank {}, no neighbour", from, to));
  const Duration delay =
      options_.delay_min + random_duration(options_.delay_max - options_.delay_min);
  TimePoint& last = last_arrival_[{from, to}];
  last = std::max(last + Duration(1), now_ + delay);
  const bool is_repeated = happens(random_, options_.duplicates);
  ++work_left_;
  schedule(last, [this, from, to, is_repeated, message = std::move(message)] {
    --work_left_;
    deliver(from, to, message);
    if (is_repeated) deliver(from, to, message);
  });
}

void World::deliver(int from, int to, const ControlMessage& message) {
  if (!at_(to).is_alive || at_(to).is_closed) return;
  at_(to).node->receive(from, message, now_);
  touch(to);
}

void World::take(int rank, NegotiationEvent& event) {
  Rank& self = at_(rank);
  if (self.end || self.is_ending) {
    violate(fmt::format("rank {} gets an event after the session's end", rank));
  } else if (auto* agreement = std::get_if<Agreement>(&event)) {
    take_agreement(rank, *agreement);
  } else if (std::holds_alternative<Mismatch>(event) || std::holds_alternative<Joined>(event) ||
             std::holds_alternative<FusionSettings>(event)) {
    self.queue.push_back(std::move(event));
  } else if (const auto* stall = std::get_if<Stall>(&event)) {
    if (rank != 0) violate(fmt::format("rank {} gets a stall event", rank));
    stalls_.emplace_back(now_, stall->message);
  } else if (std::holds_alternative<Hold>(event)) {
    if (self.is_held) violate(fmt::format("rank {} is held twice", rank));
    self.is_held = true;
  } else if (const auto* revocation = std::get_if<Revocation>(&event)) {
    take_revocation(rank, *revocation);
  } else {
    self.is_ending = true;
    const Status status = std::get<SessionEnd>(event).status;
    if (status.code() != StatusCode::shut_down) return finish_session(rank, status);
    self.queue.push_back(std::move(event));
    // A lost rank may keep it from what comes before the end.
    schedule(now_ + kEndTimeMax, [this, rank, status] {
      if (!at_(rank).is_alive || at_(rank).end) return;
      ++forced_ends_;
      finish_session(rank, status);
    });
  }
}

void World::take_agreement(int rank, Agreement& agreement) {
  Rank& self = at_(rank);
  if (agreement.sequence != self.last_sequence + 1) {
    violate(fmt::format("rank {} gets agreement {} after {}", rank, agreement.sequence,
                        self.last_sequence));
  }
  if (agreement.tensors.empty()) violate("an agreement is empty");
  for (std::size_t i = 1; i < agreement.tensors.size(); ++i) {
    if (agreement.tensors[i - 1].signature.priority >= agreement.tensors[i].signature.priority) {
      continue;
    }
    violate(fmt::format("rank {}: agreement {} has {} after a tensor of lower priority", rank,
                        agreement.sequence, agreement.tensors[i].name));
  }
  if (self.is_held) violate(fmt::format("rank {} gets an agreement while it is held", rank));
  if (agreement.is_void != is_void(self, agreement)) {
    violate(fmt::format("rank {} gets agreement {} that is {} though its range is {}", rank,
                        agreement.sequence, agreement.is_void ? "void" : "not void",
                        agreement.is_void ? "not revoked" : "revoked"));
  }
  self.last_sequence = agreement.sequence;
  ++self.backlog;
  self.queue.emplace_back(std::move(agreement));
}

void World::take_revocation(int rank, const Revocation& revocation) {
  Rank& self = at_(rank);
  if (!self.is_held) violate(fmt::format("rank {} is released but was not held", rank));
  if (revocation.end_sequence <= self.last_sequence) {
    violate(fmt::format("rank {} took agreement {}, but {} is to be next", rank, self.last_sequence,
                        revocation.end_sequence));
  }
  self.is_held = false;
  self.revoked = revocation;
  if (self.running && is_void(self, self.running->agreement)) self.running->is_void = true;
  finish_if_possible(rank);
}

bool World::is_void(const Rank& rank, const Agreement& agreement) const {
  return agreement.sequence >= rank.revoked.first_void_sequence &&
         agreement.sequence < rank.revoked.end_sequence;
}

// One after the other, as a coordinator does.
void World::carry_out_next(int rank) {
  Rank& self = at_(rank);
  while (!self.running && !self.queue.empty() && !self.end) {
    NegotiationEvent event = std::move(self.queue.front());
    self.queue.pop_front();
    if (auto* agreement = std::get_if<Agreement>(&event)) {
      begin(rank, std::move(*agreement));
    } else if (const auto* mismatch = std::get_if<Mismatch>(&event)) {
      const ExpectedCall* expected = find_expected(rank, mismatch->name);
      if (expected != nullptr && !expected->is_mismatch) {
        violate(fmt::format("rank {}: {}", rank, mismatch->message));
      }
      complete(rank, mismatch->name, mismatch->name + " differs: " + mismatch->message);
    } else if (const auto* joined = std::get_if<Joined>(&event)) {
      if (!self.is_joined) violate(fmt::format("rank {} is told that it has joined", rank));
      if (!self.in_flight.empty()) violate(fmt::format("rank {} leaves tensors behind", rank));
      self.is_joined = false;
      record(rank, fmt::format("all have joined, rank {} last", joined->last_rank));
      if (on_joined_) on_joined_(rank, joined->last_rank);
    } else if (const auto* settings = std::get_if<FusionSettings>(&event)) {
      record(rank, fmt::format("fusion: {} bytes, {} ms", settings->threshold_bytes,
                               settings->cycle_time_ms));
    } else {
      finish_session(rank, std::get<SessionEnd>(event).status);
    }
  }
}

void World::begin(int rank, Agreement agreement) {
  Rank& self = at_(rank);
  Collective& collective = collectives_[agreement.sequence];
  const bool as_void = is_void(self, agreement);
  std::size_t content = 0;
  for (const AgreedTensor& tensor : agreement.tensors) {
    content = content * 31 + std::hash<std::string>{}(tensor.name) * 7 +
              static_cast<std::size_t>(tensor.step);
    if (tensor.signature.kind == OperationKind::all_reduce) collective.needs_all = true;
  }
  if (collective.begun > 0 && collective.content != content) {
    violate(fmt::format("rank {} executes other tensors, or steps, as agreement {}", rank,
                        agreement.sequence));
  }
  collective.content = content;
  if (as_void && !collective.has_void) ++void_agreements_;
  if (as_void) collective.has_void = true;
  if (as_void && collective.is_delivered) {
    violate(fmt::format("agreement {} gets void data and was delivered", agreement.sequence));
  }
  ++collective.begun;
  collective.waiting.push_back(rank);
  self.running = Running{std::move(agreement), as_void, false};
  const Duration half = options_.execution_max / 2;
  if (half == Duration{}) {
    self.running->is_done = true;
  } else {
    at(rank, half + random_duration(half), [this, rank] {
      at_(rank).running->is_done = true;
      finish_if_possible(rank);
    });
  }
  if (collective.begun < options_.size && collective.needs_all) return;
  for (const int other : std::vector<int>(collective.waiting)) {
    if (other == rank) continue;
    // The last rank's data is on its way.
    at(other, random_duration(options_.execution_max),
       [this, other] { finish_if_possible(other); });
  }
  at(rank, Duration{}, [this, rank] { finish_if_possible(rank); });
}

void World::finish_if_possible(int rank) {
  Rank& self = at_(rank);
  if (!self.running || !self.running->is_done || self.is_held || self.end) return;
  const Running& running = *self.running;
  const Collective& collective = collectives_[running.agreement.sequence];
  if (collective.needs_all && collective.begun < options_.size) return;
  const Running done = std::move(*self.running);
  self.running.reset();
  --self.backlog;
  if (!done.is_void) deliver(rank, done.agreement);
  touch(rank);
  carry_out_next(rank);
}

void World::deliver(int rank, const Agreement& agreement) {
  Collective& collective = collectives_[agreement.sequence];
  collective.is_delivered = true;
  if (collective.has_void) {
    violate(fmt::format("rank {} delivers agreement {}, which has void data", rank,
                        agreement.sequence));
  }
  for (const AgreedTensor& tensor : agreement.tensors) {
    check_agreed(rank, tensor);
    const std::string line =
        fmt::format("{}: {} step {}", agreement.sequence, tensor.name, tensor.step);
    if (tensor.is_substitute) {
      record(rank, line);
    } else {
      complete(rank, tensor.name, line);
    }
  }
}

void World::finish_session(int rank, const Status& status) {
  Rank& self = at_(rank);
  self.end = status;
  last_end_ = now_;
  self.completions += self.in_flight.size();
  self.in_flight.clear();
  self.queue.clear();
  self.running.reset();
  close(rank);
}

const ExpectedCall* World::find_expected(int rank, const std::string& name, bool is_substitute) {
  Rank& self = at_(rank);
  if (is_substitute && !self.is_joined) {
    violate(fmt::format("rank {} gets a substitute for {}, but has not joined", rank, name));
  }
  if (is_substitute) ++self.calls[name];
  const auto calls = self.calls.find(name);
  if (calls == self.calls.end() || (self.in_flight.count(name) == 0) != is_substitute) {
    violate(fmt::format("rank {} is told about {}, which is not in flight there", rank, name));
    return nullptr;
  }
  const std::size_t call = calls->second - 1;
  const auto found = expected_.find(name);
  const bool is_known = found != expected_.end() && found->second.size() > call;
  const ExpectedCall* expected = is_known ? &found->second[call] : nullptr;
  const int submitters =
      is_known && expected->submitters >= 0 ? expected->submitters : options_.size;
  if (submitted_[name].size() <= call || submitted_[name][call] != submitters) {
    violate(fmt::format("call {} of {} is decided before {} ranks have submitted it", call, name,
                        submitters));
  }
  return expected;
}

void World::check_agreed(int rank, const AgreedTensor& tensor) {
  const ExpectedCall* expected = find_expected(rank, tensor.name, tensor.is_substitute);
  if (expected == nullptr) return;
  if (expected->is_mismatch) {
    violate(fmt::format("rank {}: {} is agreed on though it differs", rank, tensor.name));
  }
  if (!(tensor.signature ==
        (tensor.is_substitute ? expected->of_joined : at_(rank).in_flight.at(tensor.name)))) {
    violate(fmt::format("rank {}: {} has another signature than submitted", rank, tensor.name));
  }
  if (tensor.step != expected->step) {
    violate(fmt::format("rank {}: {} is at step {} instead of {}", rank, tensor.name, tensor.step,
                        expected->step));
  }
  if (tensor.first_extents != expected->first_extents) {
    violate(fmt::format("rank {}: {} has other first extents", rank, tensor.name));
  }
}

void World::complete(int rank, const std::string& name, const std::string& line) {
  Rank& self = at_(rank);
  record(rank, line);
  if (self.in_flight.erase(name) == 1) ++self.completions;
  if (on_completion_) on_completion_(rank, name);
}

void World::record(int rank, const std::string& line) {
  Rank& self = at_(rank);
  const std::size_t place = self.decisions++;
  if (place == order_.size()) {
    order_.push_back(line);
  } else if (order_[place] != line) {
    violate(fmt::format("rank {} gets \"{}\" where another rank got \"{}\"", rank, line,
                        order_[place]));
  }
  last_decision_ = now_;
}

void World::run() { run_until(now_ + kTimeMax); }

void World::run(Duration time) {
  const TimePoint end = now_ + time;
  run_until(end);
  now_ = end;
}

void World::run_until(TimePoint end) {
  while (!happenings_.empty()) {
    const Happening& next = happenings_.top();
    if (next.at > end) break;
    now_ = std::max(now_, next.at);
    const std::function<void()> action = std::move(const_cast<Happening&>(next).action);
    happenings_.pop();
    action();
  }
}

void World::check_drained(bool may_end) {
  if (work_left_ > 0) violate("something still happens after the virtual time");
  for (int rank = 0; rank < options_.size; ++rank) {
    const Rank& self = at_(rank);
    if (!self.is_alive) continue;
    if (!self.in_flight.empty()) {
      violate(fmt::format("rank {}: {} tensors never complete, for example {}", rank,
                          self.in_flight.size(), self.in_flight.begin()->first));
    }
    if (self.is_joined && !self.end) violate(fmt::format("rank {} has joined for ever", rank));
    if (self.is_held && !self.end) violate(fmt::format("rank {} is held for ever", rank));
    if (may_end != self.end.has_value()) {
      violate(fmt::format("rank {}: {}", rank,
                          self.end ? "ended: " + self.end->message() : "did not end"));
    }
    if (!may_end && self.decisions != order_.size()) {
      violate(fmt::format("rank {} got {} of {} decisions", rank, self.decisions, order_.size()));
    }
  }
}

}  // namespace scalecom::sim
