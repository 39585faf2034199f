#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/control/tree.hpp"
#include "runtime/negotiation.hpp"
#include "runtime/negotiation/ready_tensors.hpp"
#include "runtime/negotiation/release_policy.hpp"
#include "runtime/negotiation/schedule.hpp"
#include "runtime/negotiation/schedule_learner.hpp"
#include "runtime/negotiation/step_counter.hpp"
#include "runtime/negotiation/tensor_table.hpp"
#include "runtime/negotiation/wire.hpp"

namespace scalecom {

/// One node of the control tree. docs/architecture.md explains the protocol; by file:
/// negotiation.cpp the interface and how requests are merged, requests.cpp the messages up,
/// ordering.cpp rank 0's decisions, stream.cpp the messages down, steady.cpp the schedule that
/// replaces both, steady_exit.cpp the way back, joining.cpp the ranks that are out of data,
/// fusion_change.cpp, stalls.cpp, silence.cpp, session_end.cpp.
class Negotiation::Impl {
 public:
  explicit Impl(NegotiationOptions options);

  void submit(TensorRequest request, TimePoint now);
  void join(DeviceKind zeros_on, TimePoint now);
  void receive(int from, const ControlMessage& message, TimePoint now);
  void lose_peer(int peer, const std::string& cause, TimePoint now);
  void end_session(Status status, TimePoint now);
  void change_fusion(const FusionSettings& settings, TimePoint now);
  void set_backlog(std::size_t agreements) noexcept;
  void set_arrivals(ArrivalSink* arrivals) noexcept { arrivals_ = arrivals; }
  void restart_steps(const std::string& name);
  void advance(TimePoint now);
  std::optional<TimePoint> next_timer() const;
  std::vector<OutgoingMessage> take_outgoing();
  std::vector<NegotiationEvent> take_events();
  std::int64_t cached_requests() const noexcept { return cached_requests_; }
  const SteadyCounters& steady_counters() const noexcept { return steady_counters_; }

 private:
  using Tensor = negotiation::Tensor;
  using Reader = negotiation::Reader;
  using Writer = negotiation::Writer;
  using RankSet = negotiation::RankSet;
  using RankRange = negotiation::RankRange;

  /// A subtree that contributes to this node: the rank itself (member 0) or a child's.
  struct Member {
    RankRange ranks;
    std::uint64_t frame = 0;         ///< of its last message
    std::uint64_t acknowledged = 0;  ///< cache generation that its whole subtree has reached
    int joined = 0;                  ///< its ranks that have joined
  };

  struct Join {
    int rank = 0;
    DeviceKind zeros_on = DeviceKind::host;
  };

  bool is_root() const noexcept { return options_.rank == 0; }
  /// -1: no neighbour below.
  int member_of(int rank) const noexcept;
  int rank_of(std::size_t member) const noexcept { return members_[member].ranks.first; }
  /// Of the members whose bits are set.
  RankSet ranks_of(std::uint32_t members) const;
  /// A member whose ranks have all joined is not waited for.
  bool is_complete(const Tensor& tensor) const noexcept {
    return tensor.arrived != 0 && (tensor.arrived | joined_members_) == all_members_;
  }

  // Merging (negotiation.cpp)
  void list(Tensor& tensor);
  void arrive(Tensor& tensor, std::size_t member, const TensorSignature& signature);
  void arrive_split(Tensor& tensor, std::size_t member,
                    std::vector<negotiation::SignatureGroup> groups);
  void split(Tensor& tensor);
  void add_to_group(Tensor& tensor, const TensorSignature& signature, const RankSet& ranks);
  void mark_arrived(Tensor& tensor, std::size_t member);
  void take_complete(Tensor& tensor);
  void set_local_extents(Tensor& tensor, const std::vector<std::int64_t>& splits);
  std::vector<std::int64_t>& extents_of(Tensor& tensor, OperationKind kind);
  void take_extents(Tensor& tensor, OperationKind kind, std::size_t member, Reader& reader);

  // Requests from below and to above (requests.cpp)
  static bool take_frame_number(Reader& message, std::uint64_t last);
  void receive_requests(std::size_t member, Reader& reader);
  void take_request_run(std::size_t member, std::uint64_t generation, Reader& reader,
                        std::uint64_t& expected);
  void take_cached_extents(std::size_t member, std::uint64_t generation, Reader& reader);
  void take_full_request(std::size_t member, Reader& reader);
  void take_split_request(std::size_t member, Reader& reader);
  void take_acknowledgement(std::size_t member, Reader& reader);
  Tensor& find_arriving(std::size_t member, std::string_view name);
  bool is_outdated(std::size_t member, const Tensor& tensor) const;
  void check_not_arrived(std::size_t member, const Tensor& tensor) const;
  void write_requests(Writer& writer);
  void write_full_request(Writer& writer, const Tensor& tensor) const;
  void write_acknowledgement(Writer& writer);
  void send_up();

  // Order (ordering.cpp), rank 0 only
  void order(Tensor& tensor);
  void release_due();
  void release(const std::vector<Tensor*>& tensors);
  void release_barriers();
  void release_all();
  std::optional<TimePoint> release_time() const;
  void start_generation_if_due(const std::vector<Tensor*>& tensors);
  void write_agreement(Writer& writer, const std::vector<Tensor*>& tensors);
  void publish(const Writer& item);

  // The stream from rank 0 (stream.cpp)
  void receive_stream(const ControlMessage& message);
  void apply_item(Reader& reader);
  void apply_agreement(Reader& reader);
  void apply_run(Reader& reader, std::uint64_t& expected, std::int64_t& step,
                 std::vector<AgreedTensor>& agreed);
  void apply_cached_extents(Reader& reader, std::vector<AgreedTensor>& agreed);
  void apply_full(Reader& reader, bool is_announced, std::int64_t& step,
                  std::vector<AgreedTensor>& agreed);
  void apply_mismatch(Reader& reader);
  void apply_generation(Reader& reader);
  void apply_end(Reader& reader);
  void agree_on(Tensor& tensor, std::int64_t step, std::vector<std::int64_t> first_extents,
                std::vector<AgreedTensor>& agreed);
  bool is_expected(const Tensor& tensor) const noexcept;
  Tensor& find_numbered(std::uint64_t number);
  void check_agreed_by_number(const Tensor& tensor, bool is_entry_of_kind) const;
  std::vector<std::int64_t> read_first_extents(Reader& reader, OperationKind kind) const;
  std::uint64_t acknowledged_below() const noexcept;
  void send_down(const Writer& items);

  // Other fusion settings (fusion_change.cpp)
  void publish_fusion_if_due();
  void apply_fusion(Reader& reader);

  // Stalls (stalls.cpp)
  /// For one tensor, or for all that scalecom has for one purpose. Points into their names.
  struct Wait {
    std::string_view name;
    std::string_view words;  ///< in the name's place where it is scalecom's own
    RankSet behind;          ///< who has not submitted it, or not all of it; joined ones, too
    TimePoint since{};
  };
  void take_stall_report(std::size_t member, Reader& reader);
  void write_stall_reports(Writer& writer);
  void queue_stall_report(Tensor& tensor);
  void check_stalls();
  /// Rank 0: whether what has been waited for since then has used up the stall shutdown time.
  bool is_shutdown_due(TimePoint since) const noexcept;
  /// Ends the session for it; `what` says who waits for whom.
  void end_stalled(const std::string& what);
  TimePoint check_stall(Tensor& tensor, std::vector<Tensor*>& stalled);
  void report_stalls(const std::vector<Tensor*>& stalled);
  RankSet submitted_ranks(const Tensor& tensor) const;
  Wait wait_for(const Tensor& tensor) const;
  std::string describe_wait(const Wait& wait) const;

  // A rank 0 that says nothing (silence.cpp)
  void hear_from_above() noexcept;
  /// Whether something that this rank has asked for is up to the ranks above.
  bool is_up_to_those_above() const noexcept;
  std::optional<TimePoint> silence_timer() const;
  void check_silence();
  void take_ask();
  void write_ask(Writer& writer);

  // The steady state (steady.cpp)
  void learn(const std::vector<Tensor*>& tensors);
  void start_schedule_if_due();
  void write_schedule(Writer& writer) const;
  void apply_schedule(Reader& reader);
  std::size_t read_scheduled(Reader& reader, negotiation::Schedule& schedule);
  void add_scheduled(std::uint64_t number, std::int64_t step, negotiation::Schedule& schedule);
  void withdraw_scheduled();
  void submit_scheduled(Tensor& tensor, bool is_hit);
  void take_due();
  void push_agreement(Agreement agreement);
  bool is_waiting() const noexcept;
  void check_steady();
  void leave_for_change(const Tensor& tensor);
  std::string describe_wait_for_next();
  std::optional<TimePoint> steady_timer() const;

  // Its end (steady_exit.cpp)
  void leave(const std::string& reason);
  void take_leave(Reader& reader);
  void apply_stop(Reader& reader);
  void take_report(std::size_t member, Reader& reader);
  void report_if_complete();
  void write_steady_items(Writer& writer);
  void check_stop();
  void apply_decision(Reader& reader);
  void keep_steps(const negotiation::Schedule& schedule, std::uint64_t agreed);
  void take_back(Tensor& tensor);
  void take_void(negotiation::Schedule& schedule, std::uint64_t k);
  void arrive_again(Tensor& tensor);
  void order_deferred();

  // Ranks that are out of data (joining.cpp)
  void take_join(std::size_t member, Reader& reader);
  void write_joins(Writer& writer);
  void count_join(std::size_t member, const Join& join);
  void complete_without_joined();
  void refuse_if_impossible(Tensor& tensor);
  void release_joined(int last_rank);
  void apply_joined(Reader& reader);
  void forget_joins();
  std::optional<TimePoint> join_timer() const;
  void check_joins();

  // The end (session_end.cpp)
  void end_everywhere(const Status& status);
  void end_here(const Status& status, bool is_parent_left);
  void ask_for_end(const Status& status);
  Status first_failure(const Status& status) const;
  void take_end_request(Reader& reader);
  void refuse(int from, const std::string& problem);

  NegotiationOptions options_;
  ControlTree tree_;
  std::vector<Member> members_;
  std::uint32_t all_members_ = 0;
  TimePoint now_{};
  ArrivalSink* arrivals_ = nullptr;
  negotiation::TensorTable table_;
  std::int64_t cached_requests_ = 0;
  SteadyCounters steady_counters_;

  // Up
  std::vector<Tensor*> complete_;  ///< to be sent up
  std::vector<Tensor*> stall_reports_;
  std::uint64_t up_frame_ = 0;
  std::uint64_t acknowledged_up_ = 0;

  // Rank 0
  negotiation::ReleasePolicy policy_;
  negotiation::StepCounter steps_;
  negotiation::ReadyTensors ready_;
  std::vector<Tensor*> barriers_;
  std::optional<FusionSettings> next_fusion_;  ///< to be published once no schedule runs
  std::size_t backlog_ = 0;
  TimePoint last_arrival_{};
  std::uint64_t cache_misses_ = 0;  ///< since the table is full
  Writer stream_;                   ///< items that the children have not been sent

  // Steady state
  std::optional<negotiation::Schedule> schedule_;  ///< from its place in the stream to the decision
  std::optional<std::string> leave_request_;       ///< to be sent up
  std::size_t unsaid_ = 0;                         ///< agreements since the backlog was said
  std::size_t untaken_ = 0;                        ///< of them, those in events_
  std::uint64_t finished_ = 0;                     ///< agreements that are not in the backlog
  std::optional<TimePoint> unfinished_since_;      ///< when that was seen to be the last one
  Clock::duration unfinished_time_{};              ///< after which the schedule is left
  negotiation::ScheduleLearner learner_;           ///< rank 0
  std::vector<Tensor*> deferred_;                  ///< rank 0: to be ordered after the decision
  std::optional<Status> deferred_end_;             ///< rank 0: a shutdown, likewise

  // Joining
  std::optional<Join> own_join_;      ///< while this rank has joined
  RankSet joined_;                    ///< of the subtree, as far as they count here
  std::uint32_t joined_members_ = 0;  ///< bit per member of which all ranks have
  bool lacks_device_ = false;         ///< one of them can put zeros on no CUDA device
  std::vector<Join> joins_up_;        ///< to be sent up
  bool has_joins_ = false;            ///< rank 0: has heard of one, whether or not it counts
  TimePoint last_agreement_{};        ///< rank 0: or join, or the end of its execution
  TimePoint next_join_check_{};

  // Down
  std::uint64_t down_frame_ = 0;
  std::uint64_t sequence_ = 0;

  // Stalls
  Clock::duration stall_time_{};      ///< until a node reports, or rank 0 speaks
  Clock::duration stall_look_{};      ///< until the first look at a tensor
  Clock::duration stall_shutdown_{};  ///< zero: never
  TimePoint next_stall_check_{};

  // Silence from above
  std::size_t own_requests_ = 0;  ///< that this rank has submitted, and that are not over
  TimePoint last_heard_{};        ///< or since when this rank waits for those above
  std::optional<TimePoint> asked_;
  bool is_ask_due_ = false;        ///< to be sent up
  Clock::duration silence_max_{};  ///< half of it until this rank asks, half and more to the end

  // End
  bool has_ended_ = false;
  std::optional<Status> cause_;        ///< the first that this node knew of, before the end
  std::optional<Status> end_request_;  ///< to be sent up
  std::optional<TimePoint> end_deadline_;

  std::vector<OutgoingMessage> outgoing_;
  std::vector<NegotiationEvent> events_;
};

}  // namespace scalecom
