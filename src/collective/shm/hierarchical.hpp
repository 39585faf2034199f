#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "collective/message_collectives.hpp"
#include "collective/shm/shm_collectives.hpp"
#include "transport/shm/board.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// Ranks by host, hosts by their lowest rank; a rank's place in its host is its local rank.
using HostRanks = std::vector<std::vector<int>>;

/// Several hosts: shared memory inside a host, messages between hosts. A host with one rank has a
/// board of its own memory, so that pack, transfer and unpack overlap there in the same way.
///
/// The *talkers* of a host are its first local ranks; talker j exchanges with talker j of every
/// other host. All-reduce: the pipeline of shm_operation.hpp, in which each talker owns a part of
/// a block, reduces it inside the host, all-reduces it with its counterparts and then hands it to
/// its host. An all-gather takes the same way, host by host. Parts of several blocks are under way
/// between hosts while further blocks are packed, reduced and unpacked inside. H hosts, S bytes: a
/// host sends 2(H-1)/H S, its talkers share it.
///
/// Small vectors go by one talker, in one message where more would only add latency.
class HierarchicalCollectives final : public Collectives {
 public:
  /// `board` is that of this rank's host, `transport` joins all ranks; both outlive this object.
  HierarchicalCollectives(Board& board, Transport& transport, const HostRanks& hosts,
                          const Tuning& tuning);
  /// As above, where nothing was measured.
  HierarchicalCollectives(Board& board, Transport& transport, const HostRanks& hosts);
  ~HierarchicalCollectives() override;

  std::string_view name() const noexcept override {
    return hosts_.size() == static_cast<std::size_t>(transport_.size()) ? "messages"
                                                                        : "hierarchical";
  }
  int rank() const noexcept override { return transport_.rank(); }
  int host_size() const noexcept override { return board_.size(); }
  void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                  const WaitContext& context) override;
  bool advance(const WaitContext& context) override;
  std::size_t under_way() const noexcept override { return pipeline_.under_way(); }
  bool goes_in_steps() const noexcept override { return true; }
  void hold() override { pipeline_.hold(); }
  void release() override { pipeline_.release(); }
  bool must_poll() const noexcept override { return !parts_.empty() || pipeline_.is_held(); }
  void wait_for_change(std::chrono::nanoseconds limit) override {
    pipeline_.wait_for_change(limit);
  }
  void broadcast(std::span<std::byte> data, int root, const WaitContext& context) override;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  std::span<const std::int64_t> bytes_per_rank,
                  const WaitContext& context) override;
  void reduce_scatter(std::span<std::byte> data, std::span<const std::int64_t> bytes_per_rank,
                      DataType dtype, ReduceOp op, const WaitContext& context) override;
  void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                  std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                  const WaitContext& context) override;
  AllReduceExplanation explain_all_reduce(std::int64_t bytes) const override;
  TransportCounters counters() const noexcept override;

 private:
  void enqueue(Operation operation) override;
  void discard_under_way(std::size_t index) override { pipeline_.discard(index); }
  void start(AllReduceBatch batch);
  void start(const AllGatherBatch& batch);
  ShmOperation::Options options_for(std::size_t bytes) const noexcept;
  bool is_talker(int talkers) const noexcept { return board_.rank() < talkers; }
  class PartOnItsWay;

  Board& board_;
  Transport& transport_;
  const HostRanks hosts_;
  const Tuning tuning_;
  int host_ = 0;
  int talkers_ = 1;
  ShmCollectives inside_;
  MessageCollectives everyone_;
  /// This rank and its counterparts; null when it is no talker.
  std::unique_ptr<Transport> counterparts_;
  std::unique_ptr<MessageCollectives> between_;
  ShmPipeline pipeline_;
  /// Oldest first.
  std::deque<PartOnItsWay> parts_;
  /// The same on all counterparts, unlike the blocks of their boards, which other operations take.
  std::uint64_t parts_opened_ = 0;
};

}  // namespace scalecom
