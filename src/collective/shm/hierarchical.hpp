#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "collective/message_collectives.hpp"
#include "collective/shm/board_collectives.hpp"
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
class HierarchicalCollectives final : public BoardCollectives {
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
  bool advance(const WaitContext& context) override;
  bool must_poll() const noexcept override {
    return !parts_.empty() || BoardCollectives::must_poll();
  }
  void broadcast(std::span<std::byte> data, int root, const WaitContext& context) override;
  void reduce_scatter(std::span<std::byte> data, std::span<const std::int64_t> bytes_per_rank,
                      DataType dtype, ReduceOp op, const WaitContext& context) override;
  void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                  std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                  const WaitContext& context) override;
  AllReduceExplanation explain_all_reduce(std::int64_t bytes) const override;
  TransportCounters counters() const noexcept override;

 private:
  void start(AllReduceBatch batch) override;
  void start(const AllGatherBatch& batch) override;
  ShmOperation::Options options_for(std::size_t bytes) const noexcept;
  class PartOnItsWay;

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
  /// Oldest first.
  std::deque<PartOnItsWay> parts_;
  /// The same on all counterparts, unlike the blocks of their boards, which other operations take.
  std::uint64_t parts_opened_ = 0;
};

}  // namespace scalecom
