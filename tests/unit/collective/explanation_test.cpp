#include <algorithm>

#include "collective/message_collectives.hpp"
#include "collective/selector.hpp"
#include "collective/shm/hierarchical.hpp"
#include "collective/shm/shm_collectives.hpp"
#include "tests/support/board_world.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

constexpr LinkCosts kNear{.latency_s = 1e-7, .bytes_per_s = 1e8, .reduce_bytes_per_s = 8e9};
constexpr LinkCosts kFar{.latency_s = 1e-2, .bytes_per_s = 1e10, .reduce_bytes_per_s = 8e9};

// What one all-reduce of bytes hands to the transport or puts on the board.
TransportCounters sent_by(Collectives& collectives, std::int64_t bytes) {
  const TransportCounters before = collectives.counters();
  Bytes data(static_cast<std::size_t>(bytes));
  const WaitContext context = patience();
  collectives.all_reduce(data, DataType::uint8, ReduceOp::sum, context);
  const TransportCounters after = collectives.counters();
  return {after.bytes_sent - before.bytes_sent, after.messages_sent - before.messages_sent};
}

// The name of the single alternative that is marked, and it is the explained algorithm.
std::string marked(const AllReduceExplanation& explanation) {
  std::string names;
  for (const auto& alternative : explanation.alternatives) {
    if (alternative.is_chosen) names += alternative.name;
  }
  return names;
}

}  // namespace

TEST_CASE("the explained algorithm of messages is the one that is carried out") {
  const int size = GENERATE(3, 6);
  const LinkCosts costs = GENERATE(kNear, kFar);
  const std::int64_t bytes = GENERATE(8, 6000, 300'000);
  LoopbackWorld chosen_world(size);
  LoopbackWorld named_world(size);
  std::vector<AllReduceExplanation> explained(static_cast<std::size_t>(size));
  std::vector<int> differences(static_cast<std::size_t>(size));
  run_ranks(size, [&](int rank) {
    const auto place = static_cast<std::size_t>(rank);
    const auto transport = chosen_world.make_transport(rank);
    MessageCollectives collectives(*transport, "auto", costs);
    explained[place] = collectives.explain_all_reduce(bytes);
    const TransportCounters sent = sent_by(collectives, bytes);
    const auto other_transport = named_world.make_transport(rank);
    MessageCollectives named(*other_transport, explained[place].algorithm, costs);
    const TransportCounters expected = sent_by(named, bytes);
    differences[place] =
        (sent.messages_sent != expected.messages_sent) + (sent.bytes_sent != expected.bytes_sent);
  });
  for (std::size_t rank = 0; rank < explained.size(); ++rank) {
    CHECK(differences[rank] == 0);
    CHECK(marked(explained[rank]) == explained[rank].algorithm);
    CHECK(explained[rank].bytes == bytes);
  }
}

TEST_CASE("above four ranks the explained algorithm has the least time of those with steps") {
  LoopbackWorld world(6);
  const auto transport = world.make_transport(0);
  std::vector<std::string> chosen;
  for (const LinkCosts& costs : {kNear, kFar}) {
    const MessageCollectives collectives(*transport, "auto", costs);
    for (std::int64_t bytes = 8; bytes <= 1 << 26; bytes *= 8) {
      auto explanation = collectives.explain_all_reduce(bytes);
      std::erase_if(explanation.alternatives, [](const auto& a) { return a.name == "direct"; });
      const auto fastest =
          std::min_element(explanation.alternatives.begin(), explanation.alternatives.end(),
                           [](const auto& a, const auto& b) { return a.time_us < b.time_us; });
      CHECK(fastest->name == explanation.algorithm);
      chosen.push_back(fastest->name);
    }
  }
  std::sort(chosen.begin(), chosen.end());
  CHECK(std::unique(chosen.begin(), chosen.end()) - chosen.begin() >= 2);
}

TEST_CASE("the explained blocks of shared memory are those that are posted") {
  const ShmTuning tuning{.flat_bytes_max = 1024, .block_bytes = 2048};
  const std::int64_t bytes = GENERATE(8, 1024, 1025, 2048, 2049, 40'000);
  BoardWorld world(2, 4096);
  std::vector<AllReduceExplanation> explained(2);
  std::vector<std::int64_t> posted(2);
  run_ranks(2, [&](int rank) {
    const auto place = static_cast<std::size_t>(rank);
    Board board = world.make_board(rank);
    ShmCollectives collectives(board, tuning);
    explained[place] = collectives.explain_all_reduce(bytes);
    posted[place] = sent_by(collectives, bytes).messages_sent;
  });
  for (std::size_t rank = 0; rank < explained.size(); ++rank) {
    CHECK(explained[rank].algorithm == (bytes <= 1024 ? "flat" : "blocks"));
    CHECK(marked(explained[rank]) == explained[rank].algorithm);
    CHECK(explained[rank].blocks == posted[rank]);
    CHECK(explained[rank].blocks == (bytes + 2047) / 2048);
  }
}

TEST_CASE("between hosts the algorithm of a block is explained, and how many blocks there are") {
  const std::int64_t bytes = GENERATE(8, 4096, 4097, 40'000);
  Tuning tuning = Tuning::defaults(1, 4096);
  tuning.between_hosts = GENERATE(kNear, kFar);
  const int size = 6;
  LoopbackWorld world(size);
  HostRanks hosts;
  for (int rank = 0; rank < size; ++rank) hosts.push_back({rank});
  std::vector<BoardWorld> boards;
  for (int rank = 0; rank < size; ++rank) boards.emplace_back(1, std::size_t{4096});
  std::vector<AllReduceExplanation> explained(size);
  run_ranks(size, [&](int rank) {
    const auto place = static_cast<std::size_t>(rank);
    Board board = boards[place].make_board(0);
    const auto transport = world.make_transport(rank);
    const HierarchicalCollectives collectives(board, *transport, hosts, tuning);
    explained[place] = collectives.explain_all_reduce(bytes);
  });
  for (const AllReduceExplanation& explanation : explained) {
    CHECK(explanation.blocks == (bytes + 4095) / 4096);
    CHECK(explanation.block_bytes == std::min<std::int64_t>(bytes, 4096));
    CHECK(marked(explanation) == explanation.algorithm);
    CHECK(explanation.algorithm ==
          name_of(select_all_reduce_steps(explanation.block_bytes, size, tuning.between_hosts)));
  }
}
