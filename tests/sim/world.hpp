#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/control/tree.hpp"
#include "runtime/negotiation.hpp"
#include "tests/sim/random.hpp"

namespace scalecom::sim {

using Duration = Clock::duration;

/// What one call of a tensor must lead to: the reference that a world checks its ranks against.
struct ExpectedCall {
  bool is_mismatch = false;
  std::int64_t step = 0;
  std::vector<std::int64_t> first_extents = {};  ///< all_gather, all_to_all
  /// Ranks that submit it, the others having joined; -1: all.
  int submitters = -1;
  TensorSignature of_joined = {};  ///< what those that have joined get
};

struct WorldOptions {
  int size = 2;
  std::uint64_t seed = 1;
  NegotiationOptions negotiation;  ///< rank and size are filled in
  /// A message takes a random time between these.
  Duration delay_min = std::chrono::microseconds(5);
  Duration delay_max = std::chrono::microseconds(200);
  /// Chance that a message arrives twice.
  double duplicates = 0.0;
  /// How long a rank takes to notice that a neighbour is gone, at most.
  Duration detection_max = std::chrono::milliseconds(3);
  /// How long a rank takes to execute an agreement, at most, once all ranks have begun it.
  Duration execution_max{};
  /// What a broken rank would make of an event, to see that the world notices.
  std::function<void(int rank, std::vector<NegotiationEvent>&)> tamper;
};

struct RankTraffic {
  std::int64_t messages = 0;
  std::int64_t bytes = 0;
};

/// N ranks of negotiation in one thread: a virtual clock, and between neighbours of the control
/// tree a queue that keeps its order and delays each message by a random time. Every run follows
/// from the seed. Each rank is driven as the coordinator does it: submits and messages that come
/// together are flushed together, timers wake it, and after the session's end its neighbours see
/// its connections close. It executes one agreement after the other, and finishes one with an
/// all-reduce only when every rank has begun it; it honours Hold and Revocation.
///
/// It checks the invariants while it runs and gathers what is violated, in words.
class World {
 public:
  explicit World(WorldOptions options);

  int size() const noexcept { return options_.size; }
  TimePoint now() const noexcept { return now_; }
  Random& random() noexcept { return random_; }
  Duration random_duration(Duration max);

  /// What all ranks must get for the n-th call of `name`; before it is submitted.
  void expect(const std::string& name, ExpectedCall call);

  /// Runs `action` at now + `after`, unless the rank is gone or its session over.
  void at(int rank, Duration after, std::function<void()> action);
  /// Called at each completion of one of the rank's tensors, when its name may be used again.
  void on_completion(std::function<void(int rank, const std::string& name)> action) {
    on_completion_ = std::move(action);
  }

  void submit(int rank, const std::string& name, TensorSignature signature,
              std::vector<std::int64_t> splits = {});
  /// The rank is out of data.
  void join(int rank, DeviceKind zeros_on = DeviceKind::host);
  /// Called at each rank when all have joined.
  void on_joined(std::function<void(int rank, int last_rank)> action) {
    on_joined_ = std::move(action);
  }
  void end_session(int rank, Status status);
  void restart_steps(int rank, const std::string& name);
  /// On rank 0.
  void change_fusion(const FusionSettings& settings);
  void kill(int rank);
  /// A message from one rank to its neighbour that its negotiation did not write.
  void inject(int from, int to, ControlMessage message);

  /// Until nothing is left to happen, or the time that any run may take is over.
  void run();
  /// For this long.
  void run(Duration time);

  bool is_alive(int rank) const { return at_(rank).is_alive; }
  /// When the last rank got an agreement or mismatch.
  TimePoint last_decision() const noexcept { return last_decision_; }
  /// When the last rank's session ended.
  TimePoint last_end() const noexcept { return last_end_; }
  const std::optional<Status>& end_of(int rank) const { return at_(rank).end; }
  /// What was decided for the rank's tensors and delivered there, in order. A rank that gets
  /// something else than the others violates, so the longest log is everybody's.
  std::vector<std::string> log_of(int rank) const;
  std::size_t decisions(int rank) const { return at_(rank).decisions; }
  const std::vector<std::pair<TimePoint, std::string>>& stalls() const { return stalls_; }
  std::size_t in_flight(int rank) const { return at_(rank).in_flight.size(); }
  std::size_t completions(int rank) const { return at_(rank).completions; }
  std::int64_t cached_requests(int rank) const { return at_(rank).node->cached_requests(); }
  const SteadyCounters& steady(int rank) const { return at_(rank).node->steady_counters(); }
  bool is_held(int rank) const { return at_(rank).is_held; }
  /// Agreements that some rank executed as void.
  std::size_t void_agreements() const noexcept { return void_agreements_; }
  /// Ranks that ended although agreements before the end were not executed.
  int forced_ends() const noexcept { return forced_ends_; }
  RankTraffic traffic(int rank) const { return at_(rank).traffic; }
  /// What the negotiation of one rank sent to the other.
  RankTraffic traffic_between(int from, int to) const {
    const auto found = edges_.find({from, to});
    return found == edges_.end() ? RankTraffic{} : found->second;
  }
  const ControlTree& tree(int rank) const { return at_(rank).tree; }
  int agreements(int rank) const { return static_cast<int>(at_(rank).last_sequence); }

  /// Empty when all is well.
  const std::vector<std::string>& violations() const noexcept { return violations_; }
  void violate(const std::string& what);

  /// Adds what must hold once nothing happens any more: nothing is in flight, all logs are equal.
  /// `may_end`: the session was ended on purpose, so every living rank must say so.
  void check_drained(bool may_end);

 private:
  /// What a rank executes.
  struct Running {
    Agreement agreement;
    bool is_void = false;
    bool is_done = false;  ///< as far as this rank's own work goes
  };
  /// One agreement's execution on all ranks.
  struct Collective {
    int begun = 0;
    bool needs_all = false;  ///< nobody finishes before all have begun
    bool has_void = false;
    bool is_delivered = false;
    std::size_t content = 0;
    std::vector<int> waiting;  ///< ranks that have begun it
  };
  struct Rank {
    std::unique_ptr<Negotiation> node;
    ControlTree tree;
    bool is_alive = true;
    bool is_closed = false;
    bool has_flush = false;
    std::optional<Status> end;
    std::unordered_map<std::string, TensorSignature> in_flight;
    std::unordered_map<std::string, std::size_t> calls;  ///< submitted so far
    std::size_t decisions = 0;                           ///< delivered
    std::uint64_t last_sequence = 0;
    std::size_t completions = 0;
    std::size_t backlog = 0;
    std::deque<NegotiationEvent> queue;  ///< taken, to be carried out in order
    std::optional<Running> running;
    bool is_held = false;
    bool is_joined = false;
    bool is_ending = false;  ///< the session's end is taken, and perhaps not carried out
    Revocation revoked;
    std::optional<TimePoint> timer;
    RankTraffic traffic;
  };
  struct Happening {
    TimePoint at;
    std::uint64_t order;
    std::function<void()> action;
    bool operator>(const Happening& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  Rank& at_(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  const Rank& at_(int rank) const { return ranks_[static_cast<std::size_t>(rank)]; }
  void schedule(TimePoint at, std::function<void()> action);
  void touch(int rank);
  void flush(int rank);
  void set_timer(int rank);
  void run_until(TimePoint end);
  void send(int from, int to, ControlMessage message);
  void deliver(int from, int to, const ControlMessage& message);
  void close(int rank);
  void take(int rank, NegotiationEvent& event);
  void take_agreement(int rank, Agreement& agreement);
  void take_revocation(int rank, const Revocation& revocation);
  void carry_out_next(int rank);
  void begin(int rank, Agreement agreement);
  void finish_if_possible(int rank);
  void deliver(int rank, const Agreement& agreement);
  void finish_session(int rank, const Status& status);
  bool is_void(const Rank& rank, const Agreement& agreement) const;
  void complete(int rank, const std::string& name, const std::string& line);
  void check_agreed(int rank, const AgreedTensor& tensor);
  const ExpectedCall* find_expected(int rank, const std::string& name, bool is_substitute = false);
  void record(int rank, const std::string& line);

  WorldOptions options_;
  Random random_;
  TimePoint now_{std::chrono::seconds(1000)};
  std::vector<Rank> ranks_;
  std::priority_queue<Happening, std::vector<Happening>, std::greater<>> happenings_;
  std::uint64_t happened_ = 0;
  std::size_t work_left_ = 0;  ///< happenings that are not timers
  std::map<std::pair<int, int>, TimePoint> last_arrival_;
  std::map<std::pair<int, int>, RankTraffic> edges_;
  std::unordered_map<std::string, std::vector<ExpectedCall>> expected_;
  std::unordered_map<std::string, std::vector<int>> submitted_;  ///< ranks, by call
  std::vector<std::string> order_;                               ///< the longest log so far
  std::vector<std::pair<TimePoint, std::string>> stalls_;
  std::map<std::uint64_t, Collective> collectives_;
  std::size_t void_agreements_ = 0;
  int forced_ends_ = 0;
  std::function<void(int, const std::string&)> on_completion_;
  std::function<void(int, int)> on_joined_;
  std::vector<std::string> violations_;
  TimePoint last_decision_{};
  TimePoint last_end_{};
};

}  // namespace scalecom::sim
