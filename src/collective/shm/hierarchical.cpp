#include "collective/shm/hierarchical.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "collective/algorithms.hpp"
#include "transport/group_transport.hpp"

namespace scalecom {
namespace {

// Up to here one talker: a message costs more than its bytes.
constexpr std::size_t kOneTalkerBytesMax = 64 << 10;
// Tags of the parts under way at once, each with room for an algorithm's own.
constexpr int kTagsPerPart = 8;
static_assert(kBlocksUnderWay == static_cast<int>(Board::kSlots));

}  // namespace

// A reduced part of a block on its way between the hosts.
class HierarchicalCollectives::PartOnItsWay {
 public:
  PartOnItsWay(Transport& counterparts, ShmOperation& operation, std::uint64_t number,
               const LinkCosts& costs)
      : operation_(operation),
        group_{counterparts, scratch_, never_waits_,
               kTagsPerPart * (1 + static_cast<int>(number % Board::kSlots))},
        run_(group_, steps(costs)) {}

  bool advance() { return run_.advance(); }
  bool is_done() const noexcept { return run_.is_done(); }
  void publish() { operation_.publish_part(); }

 private:
  Steps steps(const LinkCosts& costs) {
    const auto [part, range] = operation_.open_next_part();
    if (operation_.gather().sources.empty()) {
      const auto bytes = static_cast<std::int64_t>(part.size());
      return all_reduce_steps(select_all_reduce_steps(bytes, group_.size(), costs), group_, part,
                              operation_.reduction());
    }
    std::vector<std::span<std::byte>> parts;
    for (const ByteRange& host : operation_.gather().hosts) {
      const ByteRange brought = range.overlap(host);
      parts.push_back(part.subspan(brought.begin - range.begin, brought.size()));
    }
    return ring_all_gather_steps(group_, std::move(parts));
  }

  ShmOperation& operation_;
  Scratch scratch_;
  const WaitContext never_waits_{Deadline(TimePoint::max())};
  const Group group_;
  StepsRun run_;
};

HierarchicalCollectives::~HierarchicalCollectives() = default;

HierarchicalCollectives::HierarchicalCollectives(Board& board, Transport& transport,
                                                 const HostRanks& hosts)
    : HierarchicalCollectives(board, transport, hosts,
                              Tuning::defaults(board.size(), board.slot_bytes())) {}

HierarchicalCollectives::HierarchicalCollectives(Board& board, Transport& transport,
                                                 const HostRanks& hosts, const Tuning& tuning)
    : BoardCollectives(board),
      transport_(transport),
      hosts_(hosts),
      tuning_(tuning),
      inside_(board),
      everyone_(transport, "auto", tuning.between_hosts) {
  talkers_ = transport.size();
  for (std::size_t h = 0; h < hosts_.size(); ++h) {
    const std::vector<int>& ranks = hosts_[h];
    talkers_ = std::min(talkers_, static_cast<int>(ranks.size()));
    if (std::find(ranks.begin(), ranks.end(), transport.rank()) != ranks.end()) {
      host_ = static_cast<int>(h);
    }
  }
  SCALECOM_ASSERT(hosts_[static_cast<std::size_t>(host_)][static_cast<std::size_t>(board.rank())] ==
                      transport.rank(),
                  "this rank's place in its host");
  if (board.rank() >= talkers_) return;  // No talker.
  std::vector<int> ranks;
  for (const std::vector<int>& of_host : hosts_) {
    ranks.push_back(of_host[static_cast<std::size_t>(board.rank())]);
  }
  counterparts_ = make_group_transport(transport, std::move(ranks));
  between_ = std::make_unique<MessageCollectives>(*counterparts_, "auto", tuning.between_hosts);
}

ShmOperation::Options HierarchicalCollectives::options_for(std::size_t bytes) const noexcept {
  return {.block_bytes = tuning_.between_block_bytes,
          .owners = bytes <= kOneTalkerBytesMax ? 1 : talkers_,
          .is_open = true};
}

void HierarchicalCollectives::start(AllReduceBatch batch) {
  ShmOperation::Options options = options_for(batch.bytes());
  if (batch.is_inside_host) {
    options = {.block_bytes = tuning_.shm.block_bytes_for(batch.bytes()), .owners = board_.size()};
  }
  pipeline_.start(std::move(batch), options);
}

// Host by host, so that what a host brings is one range wherever its ranks are.
void HierarchicalCollectives::start(const AllGatherBatch& batch) {
  const auto parts = cut(batch.all, batch.bytes_per_rank);
  std::vector<Piece> pieces;
  ShmGather gather;
  std::size_t end = 0;
  for (std::size_t h = 0; h < hosts_.size(); ++h) {
    const std::size_t begin = end;
    for (const int rank : hosts_[h]) {
      const std::span<std::byte> part = parts[static_cast<std::size_t>(rank)];
      pieces.push_back({part.data(), part.data(), static_cast<std::int64_t>(part.size())});
      if (static_cast<int>(h) == host_) gather.sources.push_back({end, end + part.size()});
      end += part.size();
    }
    gather.hosts.push_back({begin, end});
  }
  pipeline_.start(std::move(pieces), std::move(gather), options_for(end));
}

// The talkers of a host share its link, so that a block's bytes count and not a part's.
AllReduceExplanation HierarchicalCollectives::explain_all_reduce(std::int64_t bytes) const {
  AllReduceExplanation explanation = Collectives::explain_all_reduce(bytes);
  const ShmOperation::Options options = options_for(static_cast<std::size_t>(bytes));
  const auto block_bytes = static_cast<std::int64_t>(options.block_bytes);
  const auto hosts = static_cast<int>(hosts_.size());
  explanation.level = "between hosts";
  explanation.block_bytes = std::min(bytes, block_bytes);
  explanation.blocks = (bytes + block_bytes - 1) / block_bytes;
  explanation.blocks_under_way = std::min<std::int64_t>(explanation.blocks, kBlocksUnderWay);
  const AllReduceAlgorithm chosen = select_all_reduce_steps(
      explanation.block_bytes / options.owners, hosts, tuning_.between_hosts);
  explanation.algorithm = name_of(chosen);
  for (const AllReduceAlgorithm algorithm : all_reduce_algorithms_with_steps()) {
    const BlockPipeline pipeline{.algorithm = algorithm,
                                 .hosts = hosts,
                                 .block_bytes = block_bytes,
                                 .blocks_under_way = kBlocksUnderWay};
    explanation.alternatives.push_back(
        {std::string(name_of(algorithm)),
         1e6 * pipeline_time_s(pipeline, bytes, tuning_.between_hosts, tuning_.inside_host),
         algorithm == chosen});
  }
  return explanation;
}

// Parts are published in the order in which they were opened, which is that of their blocks.
bool HierarchicalCollectives::advance(const WaitContext&) {
  bool has_moved = pipeline_.advance();
  for (ShmOperation& operation : pipeline_.operations()) {
    while (operation.has_part_to_open()) {
      parts_.emplace_back(*counterparts_, operation, parts_opened_++, tuning_.between_hosts);
      has_moved = true;
    }
  }
  for (PartOnItsWay& part : parts_) has_moved = part.advance() || has_moved;
  while (!parts_.empty() && parts_.front().is_done()) {
    parts_.front().publish();
    parts_.pop_front();
    has_moved = true;
  }
  return has_moved;
}

// The root's counterparts carry the data between hosts; where not every host has a rank in the
// root's place, the root's host passes it to its first rank before.
void HierarchicalCollectives::broadcast(std::span<std::byte> data, int root,
                                        const WaitContext& context) {
  int root_host = 0;
  int root_place = 0;
  for (std::size_t h = 0; h < hosts_.size(); ++h) {
    const auto found = std::find(hosts_[h].begin(), hosts_[h].end(), root);
    if (found == hosts_[h].end()) continue;
    root_host = static_cast<int>(h);
    root_place = static_cast<int>(found - hosts_[h].begin());
  }
  const int relay = root_place < talkers_ ? root_place : 0;
  const bool is_at_home = host_ == root_host;
  if (is_at_home && relay != root_place) inside_.broadcast(data, root_place, context);
  if (board_.rank() == relay) between_->broadcast(data, root_host, context);
  if (!is_at_home || relay == root_place) inside_.broadcast(data, relay, context);
}

// Every byte goes to one rank only: there is nothing to share inside a host.
void HierarchicalCollectives::reduce_scatter(std::span<std::byte> data,
                                             std::span<const std::int64_t> bytes_per_rank,
                                             DataType dtype, ReduceOp op,
                                             const WaitContext& context) {
  everyone_.reduce_scatter(data, bytes_per_rank, dtype, op, context);
}

void HierarchicalCollectives::all_to_all(std::span<const std::byte> send,
                                         std::span<const std::int64_t> send_bytes,
                                         std::span<std::byte> receive,
                                         std::span<const std::int64_t> receive_bytes,
                                         const WaitContext& context) {
  everyone_.all_to_all(send, send_bytes, receive, receive_bytes, context);
}

TransportCounters HierarchicalCollectives::counters() const noexcept {
  TransportCounters all = pipeline_.counters();
  all += inside_.counters();
  return all += transport_.counters();
}

}  // namespace scalecom
