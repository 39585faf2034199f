#include "collective/shm/hierarchical.hpp"

#include <algorithm>
#include <deque>
#include <numeric>

#include "base/error.hpp"
#include "collective/algorithms.hpp"
#include "transport/group_transport.hpp"

namespace scalecom {
namespace {

// Up to here one talker: a message costs more than its bytes.
constexpr std::size_t kOneTalkerBytesMax = 64 << 10;
// Up to so many hosts all talkers exchange directly, in 2 steps; above, along a ring.
constexpr int kDirectHostsMax = 4;
// Tags of the parts under way at once, each with room for an algorithm's own.
constexpr int kTagsPerPart = 8;

// One part of a block on its way between the hosts.
class PartOnItsWay {
 public:
  PartOnItsWay(Transport& counterparts, std::uint64_t index, std::span<std::byte> part,
               const Reduction& reduction, const WaitContext& context)
      : group_{counterparts, scratch_, context,
               kTagsPerPart * (1 + static_cast<int>(index % Board::kSlots))},
        run_(group_, group_.size() <= kDirectHostsMax ? direct_steps(group_, part, reduction)
                                                      : ring_steps(group_, part, reduction)) {}

  bool advance() { return run_.advance(); }
  bool is_done() const noexcept { return run_.is_done(); }

 private:
  Scratch scratch_;
  const Group group_;
  StepsRun run_;
};

}  // namespace

HierarchicalCollectives::HierarchicalCollectives(Board& board, Transport& transport,
                                                 const HostRanks& hosts)
    : board_(board), transport_(transport), hosts_(hosts), inside_(board), everyone_(transport) {
  talkers_ = transport.size();
  for (std::size_t h = 0; h < hosts_.size(); ++h) {
    const std::vector<int>& ranks = hosts_[h];
    talkers_ = std::min(talkers_, static_cast<int>(ranks.size()));
    is_contiguous_ = is_contiguous_ &&
                     ranks.back() - ranks.front() + 1 == static_cast<int>(ranks.size()) &&
                     (h == 0 || hosts_[h - 1].back() < ranks.front());
    if (std::find(ranks.begin(), ranks.end(), transport.rank()) != ranks.end()) {
      host_ = static_cast<int>(h);
    }
  }
  SCALECOM_ASSERT(hosts_[static_cast<std::size_t>(host_)][static_cast<std::size_t>(board.rank())] ==
                      transport.rank(),
                  "this rank's place in its host");
  if (!is_talker(talkers_)) return;
  std::vector<int> ranks;
  for (const std::vector<int>& of_host : hosts_) {
    ranks.push_back(of_host[static_cast<std::size_t>(board.rank())]);
  }
  counterparts_ = make_group_transport(transport, std::move(ranks));
  between_ = std::make_unique<MessageCollectives>(*counterparts_);
}

void HierarchicalCollectives::all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                                         const WaitContext& context) {
  const Piece piece{data.data(), data.data(),
                    static_cast<std::int64_t>(data.size()) / size_of(dtype)};
  all_reduce_pieces(
      {&piece, 1}, dtype, op, [](std::size_t) {}, context);
}

void HierarchicalCollectives::all_reduce_pieces(std::span<const Piece> pieces, DataType dtype,
                                                ReduceOp op, const PiecesDone& done,
                                                const WaitContext& context) {
  const PieceList list(pieces, dtype);
  if (list.bytes() == 0) return done(pieces.size());
  const Reduction reduction{dtype, op};
  ShmAllReduce pipeline(board_, list, reduction, done,
                        {.block_bytes = board_.slot_bytes(),
                         .owners = list.bytes() <= kOneTalkerBytesMax ? 1 : talkers_,
                         .is_open = true});
  run(pipeline, reduction, context);
  counters_.bytes_sent += static_cast<std::int64_t>(list.bytes());
  counters_.messages_sent += static_cast<std::int64_t>(pipeline.blocks());
}

void HierarchicalCollectives::run(ShmAllReduce& pipeline, const Reduction& reduction,
                                  const WaitContext& context) {
  constexpr std::string_view kWhat = "hierarchical all-reduce";
  std::deque<PartOnItsWay> under_way;
  std::uint64_t started = 0;
  WaitLoop loop(context);
  while (!pipeline.is_done()) {
    bool has_moved = pipeline.advance();
    if (pipeline.has_open_part(0) && pipeline.blocks() == 1) {
      // Nothing to overlap with: the algorithm for the size.
      between_->all_reduce(pipeline.open_part(0), reduction.dtype, reduction.op, context);
      pipeline.publish_part();
      continue;
    }
    if (pipeline.has_open_part(under_way.size())) {
      under_way.emplace_back(*counterparts_, started++, pipeline.open_part(under_way.size()),
                             reduction, context);
      has_moved = true;
    }
    for (PartOnItsWay& part : under_way) has_moved = part.advance() || has_moved;
    while (!under_way.empty() && under_way.front().is_done()) {
      under_way.pop_front();
      pipeline.publish_part();
      has_moved = true;
    }
    if (has_moved) {
      loop.restart();
    } else if (!under_way.empty()) {
      loop.pause(kWhat);
    } else if (const auto time = loop.pause_or_sleep_time(kWhat); time.count() > 0) {
      pipeline.wait_for_change(time);
    }
  }
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

void HierarchicalCollectives::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                         std::span<const std::int64_t> bytes_per_rank,
                                         const WaitContext& context) {
  if (!is_contiguous_) return everyone_.all_gather(mine, all, bytes_per_rank, context);
  std::vector<std::int64_t> bytes_per_host;
  for (const std::vector<int>& ranks : hosts_) {
    const auto part = bytes_per_rank.subspan(static_cast<std::size_t>(ranks.front()), ranks.size());
    bytes_per_host.push_back(std::reduce(part.begin(), part.end()));
  }
  const auto& ranks = hosts_[static_cast<std::size_t>(host_)];
  const auto before = static_cast<std::size_t>(
      std::reduce(bytes_per_host.begin(), bytes_per_host.begin() + host_, std::int64_t{0}));
  const auto here = all.subspan(
      before, static_cast<std::size_t>(bytes_per_host[static_cast<std::size_t>(host_)]));
  inside_.all_gather(mine, here,
                     bytes_per_rank.subspan(static_cast<std::size_t>(ranks.front()), ranks.size()),
                     context);
  if (board_.rank() == 0) between_->all_gather(here, all, bytes_per_host, context);
  inside_.broadcast(all.first(before), 0, context);
  inside_.broadcast(all.subspan(before + here.size()), 0, context);
}

TransportCounters HierarchicalCollectives::counters() const noexcept {
  const TransportCounters inside = inside_.counters();
  const TransportCounters between = transport_.counters();
  return {counters_.bytes_sent + inside.bytes_sent + between.bytes_sent,
          counters_.messages_sent + inside.messages_sent + between.messages_sent};
}

}  // namespace scalecom
