#include <fmt/format.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "collective/shm/shm_collectives.hpp"
#include "scalecom/status.hpp"
#include "tests/support/board_world.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/seeds.hpp"
#include "tests/unit/collective/overlap.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

// Small slots, so that a few thousand elements are many blocks.
constexpr std::size_t kSlotBytes = 1024;
constexpr ShmTuning kFlat{.flat_bytes_max = kSlotBytes, .block_bytes = kSlotBytes};
constexpr ShmTuning kBlocks{.flat_bytes_max = 0, .block_bytes = kSlotBytes};

using Body = std::function<void(int rank, ShmCollectives& collectives)>;

void run_on_board(int size, const ShmTuning& tuning, const Body& body) {
  const BoardWorld world(size, kSlotBytes);
  run_ranks(size, [&](int rank) {
    Board board = world.make_board(rank);
    ShmCollectives collectives(board, tuning);
    body(rank, collectives);
  });
}

std::vector<Bytes> reduce(int size, std::int64_t count, DataType dtype, ReduceOp op,
                          const ShmTuning& tuning) {
  std::vector<Bytes> results(static_cast<std::size_t>(size));
  run_on_board(size, tuning, [&](int rank, ShmCollectives& collectives) {
    Bytes data = input_of(rank, count, dtype);
    collectives.all_reduce(data, dtype, op, patience());
    results[static_cast<std::size_t>(rank)] = std::move(data);
  });
  return results;
}

}  // namespace

TEST_CASE("shared memory reduces any count on any number of ranks as a serial loop does") {
  const int size = GENERATE(1, 2, 3, 4, 5, 6, 7, 8, 9);
  const ShmTuning tuning = GENERATE(kFlat, kBlocks);
  // Around the inline line (14 floats), a cache line a rank, a block, and many blocks.
  for (const std::int64_t count : {0, 1, 13, 14, 15, 16, 17, 255, 256, 257, 1009, 10'007}) {
    const auto results = reduce(size, count, DataType::float32, ReduceOp::sum, tuning);
    const Bytes expected = serial_result(size, count, DataType::float32, ReduceOp::sum);
    for (const Bytes& result : results) REQUIRE(result == expected);
  }
}

TEST_CASE("every dtype and op works in shared memory, inline, flat and in blocks") {
  const int size = GENERATE(2, 3, 5);
  const DataType dtype = GENERATE(DataType::uint8, DataType::int8, DataType::int16, DataType::int32,
                                  DataType::int64, DataType::float16, DataType::bfloat16,
                                  DataType::float32, DataType::float64, DataType::boolean);
  const ReduceOp op = GENERATE(ReduceOp::sum, ReduceOp::min, ReduceOp::max, ReduceOp::product);
  const std::int64_t count = GENERATE(3, 100, 2003);
  CAPTURE(size, to_string(dtype), to_string(op), count);
  for (const Bytes& result : reduce(size, count, dtype, op, count > 1000 ? kBlocks : kFlat)) {
    REQUIRE(result == serial_result(size, count, dtype, op));
  }
}

TEST_CASE("pieces are reduced as one vector, scaled on the way in and out, and told in order") {
  const int size = GENERATE(2, 3, 4);
  const ShmTuning tuning = GENERATE(kFlat, kBlocks);
  const std::vector<std::int64_t> counts{0, 5, 700, 0, 1, 333, 2, 0};
  const auto r = [](int rank) { return static_cast<std::size_t>(rank); };
  std::vector<std::vector<std::vector<float>>> outputs(r(size));
  std::vector<std::string> orders(r(size));
  run_on_board(size, tuning, [&](int rank, ShmCollectives& collectives) {
    std::vector<std::vector<float>> inputs;
    std::vector<std::vector<float>>& results = outputs[r(rank)];
    for (const std::int64_t count : counts) {
      inputs.emplace_back(count, static_cast<float>(rank + 1));
      results.emplace_back(count, -1.0f);
    }
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      pieces.push_back({reinterpret_cast<const std::byte*>(inputs[i].data()),
                        reinterpret_cast<std::byte*>(results[i].data()),
                        counts[i],
                        {static_cast<double>(i + 1), 1.0},
                        {0.5, 1.0}});
    }
    collectives.all_reduce_pieces(
        {pieces, DataType::float32, ReduceOp::sum,
         [&](std::size_t count) { orders[r(rank)] += std::to_string(count) + " "; }},
        patience());
  });
  const float sum = static_cast<float>(size * (size + 1)) / 2.0f;
  for (std::size_t rank = 0; rank < r(size); ++rank) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const std::vector<float> expected(r(static_cast<int>(counts[i])),
                                        sum * static_cast<float>(i + 1) * 0.5f);
      REQUIRE(outputs[rank][i] == expected);
    }
    // In blocks of 256 elements: piece 1 ends in the first, piece 4 in the third, the last in the
    // fifth.
    CHECK(orders[rank] == "2 5 8 ");
  }
}

TEST_CASE("broadcast and all-gather move any bytes through shared memory, from any root") {
  const int size = GENERATE(1, 2, 3, 5, 9);
  const std::size_t bytes = GENERATE(0, 1, 1023, 1024, 1025, 20'011);
  const auto r = [](int rank) { return static_cast<std::size_t>(rank); };
  const auto pattern = [](int rank, std::size_t length) {
    Bytes made(length);
    for (std::size_t i = 0; i < length; ++i) {
      made[i] = static_cast<std::byte>((i * 31 + static_cast<std::size_t>(rank) * 101) % 251);
    }
    return made;
  };
  std::vector<std::int64_t> lengths;
  Bytes gathered;
  for (int rank = 0; rank < size; ++rank) {
    const Bytes part = pattern(rank, rank % 3 == 1 ? 0 : bytes + 7 * r(rank));
    lengths.push_back(static_cast<std::int64_t>(part.size()));
    gathered.insert(gathered.end(), part.begin(), part.end());
  }
  std::vector<char> is_right(r(size), 1);
  run_on_board(size, kBlocks, [&](int rank, ShmCollectives& collectives) {
    bool right = true;
    for (int root = 0; root < size; ++root) {
      Bytes data = pattern(rank, bytes);
      collectives.broadcast(data, root, patience());
      right = right && data == pattern(root, bytes);
      Bytes first = pattern(rank, bytes / 3);
      Bytes second = pattern(rank, bytes);
      const std::vector<std::span<std::byte>> parts{first, {}, second};
      collectives.broadcast_parts(parts, root, patience());
      right = right && first == pattern(root, bytes / 3) && second == pattern(root, bytes);
    }
    Bytes all(gathered.size());
    collectives.all_gather(pattern(rank, static_cast<std::size_t>(lengths[r(rank)])), all, lengths,
                           patience());
    is_right[r(rank)] = right && all == gathered;
  });
  CHECK(is_right == std::vector<char>(r(size), 1));
}

TEST_CASE("any sequence of operations, at any speed of the ranks, keeps its results apart") {
  const int size = GENERATE(2, 3, 4);
  const unsigned seed = GENERATE(1u, 2u, 3u, 4u, 5u, 6u);
  CAPTURE(size, seed);
  std::vector<std::string> wrong(static_cast<std::size_t>(size));
  run_on_board(
      size, {.flat_bytes_max = 512, .block_bytes = 768},
      [&](int rank, ShmCollectives& collectives) {
        std::mt19937 same(seed);
        std::mt19937 own(seed * 100 + static_cast<unsigned>(rank));
        for (int call = 0; call < 150; ++call) {
          const auto kind = same() % 3;
          const std::int64_t count = std::array{3, 100, 1500}[same() % 3] + same() % 7;
          const int root = static_cast<int>(same() % static_cast<unsigned>(size));
          if (own() % 4 == 0) std::this_thread::yield();
          Bytes data = input_of(rank, count, DataType::float32);
          bool is_right = true;
          if (kind == 0) {
            collectives.broadcast(data, root, patience());
            is_right = data == input_of(root, count, DataType::float32);
          } else if (kind == 1) {
            collectives.all_reduce(data, DataType::float32, ReduceOp::sum, patience());
            is_right = data == serial_result(size, count, DataType::float32, ReduceOp::sum);
          } else {
            const std::vector<std::int64_t> lengths(static_cast<std::size_t>(size), count * 4);
            Bytes all(static_cast<std::size_t>(size * count * 4));
            collectives.all_gather(data, all, lengths, patience());
            const Bytes last = input_of(size - 1, count, DataType::float32);
            is_right = std::equal(last.rbegin(), last.rend(), all.rbegin());
          }
          if (!is_right) wrong[static_cast<std::size_t>(rank)] += fmt::format("{}:{} ", call, kind);
        }
      });
  for (const std::string& calls : wrong) CHECK(calls.empty());
}

TEST_CASE("all-reduces that overlap in shared memory keep their results apart, in order") {
  const int size = GENERATE(1, 2, 3, 4, 9);
  const unsigned seed = GENERATE(range(1u, 1 + seeds_of(4)));
  CAPTURE(size, seed);
  std::vector<std::string> wrong(static_cast<std::size_t>(size));
  run_on_board(size, {.flat_bytes_max = 1024, .block_bytes = 768},
               [&](int rank, ShmCollectives& collectives) {
                 wrong[static_cast<std::size_t>(rank)] =
                     overlap_operations(collectives, rank, size, seed, 60);
               });
  for (const std::string& calls : wrong) CHECK(calls == "");
}

TEST_CASE("what is held in shared memory waits, and what is discarded is never delivered") {
  const int size = GENERATE(2, 3, 9);
  const std::int64_t count = GENERATE(1, 100, 1500);
  CAPTURE(size, count);
  std::vector<std::string> wrong(static_cast<std::size_t>(size));
  run_on_board(size, {.flat_bytes_max = 1024, .block_bytes = 768},
               [&](int rank, ShmCollectives& collectives) {
                 wrong[static_cast<std::size_t>(rank)] =
                     hold_and_discard(collectives, rank, size, count);
               });
  for (const std::string& problem : wrong) CHECK(problem == "");
}

TEST_CASE("who waits in shared memory for a rank that never comes leaves at the deadline") {
  const ShmTuning tuning = GENERATE(kFlat, kBlocks);
  const std::int64_t count = GENERATE(1, 100, 5000);
  const BoardWorld world(3, kSlotBytes);
  std::vector<StatusCode> codes(3, StatusCode::ok);
  run_ranks(2, [&](int rank) {
    Board board = world.make_board(rank);
    ShmCollectives collectives(board, tuning);
    Bytes data = input_of(rank, count, DataType::float32);
    try {
      collectives.all_reduce(data, DataType::float32, ReduceOp::sum,
                             {Deadline::after(std::chrono::milliseconds(50)), nullptr});
    } catch (const Error& error) {
      codes[static_cast<std::size_t>(rank)] = error.code();
    }
  });
  CHECK(codes[0] == StatusCode::timed_out);
  CHECK(codes[1] == StatusCode::timed_out);
}

TEST_CASE("a rank that sleeps on a counter is woken by its change, long before its time is over") {
  const BoardWorld world(2);
  std::atomic<bool> is_about_to_sleep{false};
  const TimePoint begin = Clock::now();
  run_ranks(2, [&](int rank) {
    Board board = world.make_board(rank);
    if (rank == 0) {
      is_about_to_sleep = true;
      while (!board.has_reached(1, Board::Phase::posted, 3)) {
        board.wait_for_change(1, Board::Phase::posted, 3, std::chrono::seconds(20));
      }
    } else {
      while (!is_about_to_sleep) std::this_thread::yield();
      for (std::uint64_t count = 1; count <= 3; ++count) {
        board.publish(Board::Phase::posted, count);
      }
    }
  });
  CHECK(Clock::now() - begin < std::chrono::seconds(10));
}

TEST_CASE("bytes written for others are counted once") {
  std::vector<std::int64_t> sent(3);
  run_on_board(3, kBlocks, [&](int rank, ShmCollectives& collectives) {
    Bytes data = input_of(rank, 3000, DataType::float32);
    collectives.all_reduce(data, DataType::float32, ReduceOp::sum, patience());
    collectives.broadcast(data, 1, patience());
    sent[static_cast<std::size_t>(rank)] = collectives.counters().bytes_sent;
  });
  CHECK(sent == std::vector<std::int64_t>{12'000, 24'000, 12'000});
}

TEST_CASE("a rank that is alone writes nothing for others") {
  std::int64_t sent = -1;
  Bytes all(3000);
  const Bytes mine(3000, std::byte{7});
  run_on_board(1, kBlocks, [&](int, ShmCollectives& collectives) {
    collectives.broadcast(all, 0, patience());
    const std::vector<std::int64_t> lengths{3000};
    collectives.all_gather(mine, all, lengths, patience());
    sent = collectives.counters().bytes_sent;
  });
  CHECK(sent == 0);
  CHECK(all == mine);
}
