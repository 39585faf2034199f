#include <algorithm>
#include <numeric>

#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/host_world.hpp"
#include "tests/support/seeds.hpp"
#include "tests/unit/collective/overlap.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

// Small slots, so that a few thousand elements are many blocks.
constexpr std::size_t kSlotBytes = 1024;

// Ranks in blocks, unequal, dealt out in turn, one host alone, and hosts with one rank each.
std::vector<Job> jobs() {
  return {{{{0, 1}, {2, 3}}, 4},
          {{{0, 1, 2}, {3}}, 4},
          {{{0}, {1, 2, 3}}, 4},
          {{{0, 2, 4}, {1, 3, 5}}, 6},
          {{{0, 1, 2}, {3, 4}, {5, 6, 7}}, 8},
          {{{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}}, 10},
          {{{0, 1, 2}}, 3},
          {{{0}, {1}}, 2},
          {{{0}, {1}, {2}, {3}, {4}}, 5}};
}

std::size_t index(int value) { return static_cast<std::size_t>(value); }

}  // namespace

TEST_CASE("hierarchical all-reduce gives every rank of every host the same sum") {
  const Job job = GENERATE(from_range(jobs()));
  // One talker; one block; several; more than are under way at once.
  const std::int64_t count = GENERATE(0, 1, 15, 250, 256, 257, 5'000, 40'000);
  CAPTURE(job.hosts.size(), job.size, count);
  std::vector<Bytes> integers(index(job.size));
  std::vector<Bytes> floats(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    integers[index(rank)] = input_of(rank, count, DataType::int64);
    floats[index(rank)] = input_of(rank, count, DataType::float32);
    collectives.all_reduce(integers[index(rank)], DataType::int64, ReduceOp::sum, patience());
    collectives.all_reduce(floats[index(rank)], DataType::float32, ReduceOp::sum, patience());
  });
  const Bytes expected = serial_result(job.size, count, DataType::int64, ReduceOp::sum);
  const Bytes serial = serial_result(job.size, count, DataType::float32, ReduceOp::sum);
  for (int rank = 0; rank < job.size; ++rank) {
    REQUIRE(integers[index(rank)] == expected);
    REQUIRE(floats[index(rank)] == floats[0]);
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    float got = 0;
    float want = 0;
    std::memcpy(&got, floats[0].data() + i * 4, 4);
    std::memcpy(&want, serial.data() + i * 4, 4);
    REQUIRE(std::abs(got - want) <= 1e-5f * want);
  }
}

TEST_CASE("hierarchical pieces are scaled and told in order") {
  const Job job = GENERATE(from_range(jobs()));
  std::vector<char> is_right(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    std::vector<double> first(700, rank + 1.0);
    std::vector<double> second(500, 1.0);
    const auto bytes = [](std::vector<double>& data) {
      return reinterpret_cast<std::byte*>(data.data());
    };
    const std::vector<Piece> pieces{{bytes(first), bytes(first), 700, {}, {0.5, 1.0}},
                                    {bytes(second), bytes(second), 500, {2.0, 1.0}, {}}};
    std::vector<std::size_t> told;
    collectives.all_reduce_pieces({pieces, DataType::float64, ReduceOp::sum,
                                   [&](std::size_t count) { told.push_back(count); }},
                                  patience());
    const double sum = job.size * (job.size + 1) / 2.0;
    is_right[index(rank)] = told == std::vector<std::size_t>{1, 2} &&
                            first == std::vector<double>(700, sum / 2) &&
                            second == std::vector<double>(500, 2.0 * job.size);
  });
  CHECK(is_right == std::vector<char>(index(job.size), 1));
}

TEST_CASE("hierarchical operations that overlap keep their results apart, in order") {
  const Job job = GENERATE(from_range(jobs()));
  const unsigned seed = GENERATE(range(1u, 1 + seeds_of(2)));
  CAPTURE(job.hosts.size(), job.size, seed);
  std::vector<std::string> wrong(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    wrong[index(rank)] = overlap_operations(collectives, rank, job.size, seed, 50);
  });
  for (const std::string& calls : wrong) CHECK(calls == "");
}

TEST_CASE("what is held between hosts waits, and what is discarded is never delivered") {
  const Job job = GENERATE(from_range(jobs()));
  const std::int64_t count = GENERATE(1, 100, 1500);
  CAPTURE(job.hosts.size(), job.size, count);
  std::vector<std::string> wrong(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    wrong[index(rank)] = hold_and_discard(collectives, rank, job.size, count);
  });
  for (const std::string& problem : wrong) CHECK(problem == "");
}

TEST_CASE("hierarchical broadcast and all-gather reach every rank, from any root") {
  const Job job = GENERATE(from_range(jobs()));
  const std::int64_t count = GENERATE(1, 3'000);
  std::vector<std::int64_t> lengths;
  Bytes gathered;
  for (int rank = 0; rank < job.size; ++rank) {
    const Bytes part = input_of(rank, rank % 3 == 1 ? 0 : count + rank, DataType::uint8);
    lengths.push_back(static_cast<std::int64_t>(part.size()));
    gathered.insert(gathered.end(), part.begin(), part.end());
  }
  std::vector<char> is_right(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    bool right = true;
    for (int root = 0; root < job.size; ++root) {
      Bytes data = input_of(rank, count, DataType::float32);
      collectives.broadcast(data, root, patience());
      right = right && data == input_of(root, count, DataType::float32);
      Bytes first = input_of(rank, 7, DataType::float32);
      Bytes second = input_of(rank, count, DataType::int8);
      const std::vector<std::span<std::byte>> parts{first, {}, second};
      collectives.broadcast_parts(parts, root, patience());
      right = right && first == input_of(root, 7, DataType::float32) &&
              second == input_of(root, count, DataType::int8);
    }
    Bytes all(gathered.size());
    collectives.all_gather(input_of(rank, lengths[index(rank)], DataType::uint8), all, lengths,
                           patience());
    is_right[index(rank)] = right && all == gathered;
  });
  CHECK(is_right == std::vector<char>(index(job.size), 1));
}

TEST_CASE(
    "other operations, which take different blocks on different hosts, leave all-reduces right") {
  const Job job = GENERATE(from_range(jobs()));
  CAPTURE(job.hosts.size(), job.size);
  std::vector<std::string> wrong(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    for (int round = 0; round < 6; ++round) {
      std::vector<std::int64_t> lengths;
      for (int r = 0; r < job.size; ++r) lengths.push_back((r * 977 + round * 333) % 4000);
      Bytes all(static_cast<std::size_t>(std::accumulate(lengths.begin(), lengths.end(), 0L)));
      const Bytes mine = input_of(rank, lengths[index(rank)], DataType::uint8);
      collectives.all_gather(mine, all, lengths, patience());
      for (const std::int64_t count : {1, 100, 6'000}) {
        Bytes data = input_of(rank + round, count, DataType::int64);
        Bytes expected = input_of(round, count, DataType::int64);
        for (int r = 1; r < job.size; ++r) {
          const Bytes next = input_of(r + round, count, DataType::int64);
          kernels::reduce(expected.data(), expected.data(), next.data(), count, DataType::int64,
                          ReduceOp::sum);
        }
        collectives.all_reduce(data, DataType::int64, ReduceOp::sum, patience());
        if (data != expected) wrong[index(rank)] += std::to_string(round) + " ";
      }
    }
  });
  for (const std::string& rounds : wrong) CHECK(rounds == "");
}

TEST_CASE("a host that is lost ends the all-reduce on the others") {
  const Job job = jobs()[0];
  LoopbackWorld between(4);
  BoardWorld inside(2, kSlotBytes);
  std::vector<StatusCode> codes(2, StatusCode::ok);
  between.lose(2);
  between.lose(3);
  run_ranks(2, [&](int rank) {
    const auto transport = between.make_transport(rank);
    Board board = inside.make_board(rank);
    HierarchicalCollectives collectives(board, *transport, job.hosts);
    Bytes data = input_of(rank, 20'000, DataType::float32);
    try {
      collectives.all_reduce(data, DataType::float32, ReduceOp::sum, patience());
    } catch (const Error& error) {
      codes[index(rank)] = error.code();
    }
  });
  CHECK(codes[0] == StatusCode::rank_lost);
  CHECK(codes[1] == StatusCode::rank_lost);
}

TEST_CASE("an all-reduce inside hosts, among others, is of each host's ranks alone") {
  const Job job = GENERATE(from_range(jobs()));
  const std::int64_t count = GENERATE(1, 700, 9'000);
  CAPTURE(job.hosts.size(), job.size, count);
  std::vector<char> is_right(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    Bytes everywhere = input_of(rank, count, DataType::int64);
    Bytes here = input_of(rank, count, DataType::int64);
    Bytes last = input_of(rank, count, DataType::int64);
    const auto start = [&](Bytes& data, bool is_inside) {
      AllReduceBatch batch = AllReduceBatch::in_place(data, DataType::int64, ReduceOp::sum);
      batch.is_inside_host = is_inside;
      return collectives.start_all_reduce(std::move(batch));
    };
    start(everywhere, false);
    start(here, true);
    collectives.wait_for(start(last, false), patience(), "all-reduce");
    Bytes expected(here.size());
    int ranks = 0;
    for (const std::vector<int>& host : job.hosts) {
      if (std::find(host.begin(), host.end(), rank) == host.end()) continue;
      ranks = static_cast<int>(host.size());
      for (const int other : host) {
        const Bytes input = input_of(other, count, DataType::int64);
        kernels::reduce(expected.data(), expected.data(), input.data(), count, DataType::int64,
                        ReduceOp::sum);
      }
    }
    const Bytes sum = serial_result(job.size, count, DataType::int64, ReduceOp::sum);
    is_right[index(rank)] =
        everywhere == sum && last == sum && here == expected && collectives.host_size() == ranks;
  });
  CHECK(is_right == std::vector<char>(index(job.size), 1));
}

TEST_CASE("talkers share what their host sends") {
  const Job job = jobs()[0];
  std::vector<std::int64_t> sent(4);
  constexpr std::int64_t kCount = 256 * 128;  // too much for one talker
  LoopbackWorld between(4);
  BoardWorld first(2, kSlotBytes);
  BoardWorld second(2, kSlotBytes);
  run_ranks(4, [&](int rank) {
    const auto transport = between.make_transport(rank);
    Board board = (rank < 2 ? first : second).make_board(rank % 2);
    HierarchicalCollectives collectives(board, *transport, job.hosts);
    Bytes data = input_of(rank, kCount, DataType::float32);
    collectives.all_reduce(data, DataType::float32, ReduceOp::sum, patience());
    sent[index(rank)] = transport->counters().bytes_sent;
  });
  // 2 (H - 1) / H of the bytes for a host, half of that each.
  CHECK(sent == std::vector<std::int64_t>(4, 4 * kCount / 2));
}
