#pragma once

#include <fmt/format.h>

#include <array>
#include <deque>
#include <random>
#include <string>
#include <thread>

#include "collective/collectives.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"

namespace scalecom::test {

/// Bytes that each rank brings to an all-gather, some of them none.
inline std::vector<std::int64_t> gathered_bytes(int size, unsigned seed) {
  std::vector<std::int64_t> bytes;
  for (int rank = 0; rank < size; ++rank) {
    const std::array<std::int64_t, 5> counts{0, 1, 100, 0, 3000};
    bytes.push_back(counts[(seed + static_cast<unsigned>(rank)) % 5]);
  }
  return bytes;
}

/// Starts `calls` all-reduces of sizes that `seed` chooses (the same on all ranks), each behind an
/// all-gather, up to three pairs under way at once, at a pace of this rank's own. Describes what is
/// wrong; empty: nothing is.
inline std::string overlap_operations(Collectives& collectives, int rank, int size, unsigned seed,
                                      int calls) {
  struct Call {
    Bytes first;
    Bytes second;
    Bytes gathered;
    std::size_t told = 0;
  };
  std::mt19937 same(seed);
  std::mt19937 own(seed * 100 + static_cast<unsigned>(rank));
  std::deque<Call> under_way;
  std::deque<Bytes> expected;
  std::string wrong;
  int started = 0;
  const auto check_oldest = [&] {
    const Call& call = under_way.front();
    const bool is_right = call.told == 2 && call.first == expected[0] &&
                          call.second == expected[1] && call.gathered == expected[2];
    if (!is_right) {
      wrong += fmt::format("call {}: {} and {} bytes, {} told; ",
                           started - static_cast<int>(under_way.size()), call.first.size(),
                           call.second.size(), call.told);
    }
    under_way.pop_front();
    expected.erase(expected.begin(), expected.begin() + 3);
  };
  const WaitContext context = patience();
  while (started < calls || !under_way.empty()) {
    if (started < calls && under_way.size() < 3 && own() % 2 == 0) {
      const std::array<std::int64_t, 6> counts{0, 1, 10, 100, 1500, 9000};
      const std::int64_t first = counts[same() % 6];
      const std::int64_t second = counts[same() % 6];
      expected.push_back(serial_result(size, first, DataType::int64, ReduceOp::sum));
      expected.push_back(serial_result(size, second, DataType::int64, ReduceOp::sum));
      Call& call = under_way.emplace_back();
      const auto parts = gathered_bytes(size, same());
      Bytes& all = expected.emplace_back();
      for (int r = 0; r < size; ++r) {
        const Bytes part = input_of(r, parts[static_cast<std::size_t>(r)], DataType::uint8);
        all.insert(all.end(), part.begin(), part.end());
        call.gathered.insert(call.gathered.end(), r == rank ? part.begin() : part.end(),
                             part.end());
        call.gathered.resize(all.size());
      }
      collectives.start_all_gather({call.gathered, parts});
      call.first = input_of(rank, first, DataType::int64);
      call.second = input_of(rank, second, DataType::int64);
      const std::vector<Piece> pieces{{call.first.data(), call.first.data(), first},
                                      {call.second.data(), call.second.data(), second}};
      collectives.start_all_reduce({pieces, DataType::int64, ReduceOp::sum,
                                    [&call](std::size_t count) { call.told = count; }});
      ++started;
    }
    if (own() % 4 == 0) std::this_thread::yield();
    if (!collectives.advance(context)) {
      if (context.deadline.has_passed()) return wrong + "timed out";
      std::this_thread::yield();
    }
    while (2 * under_way.size() > collectives.under_way() + 1) check_oldest();
  }
  return wrong;
}

/// An all-reduce that all begin while they are held, one that only rank 0 begins and all throw
/// away, and one afterwards. Describes what is wrong; empty: nothing is.
inline std::string hold_and_discard(Collectives& collectives, int rank, int size,
                                    std::int64_t count) {
  const WaitContext context = patience();
  const auto start = [&](Bytes& data, bool& is_told) {
    const Piece piece{data.data(), data.data(), count};
    collectives.start_all_reduce(
        {{piece}, DataType::int64, ReduceOp::sum, [&is_told](std::size_t) { is_told = true; }});
  };
  const auto run_until = [&](const auto& is_enough) {
    while (!is_enough() && !context.deadline.has_passed()) {
      if (!collectives.advance(context)) std::this_thread::yield();
    }
  };
  const Bytes input = input_of(rank, count, DataType::int64);
  const Bytes sum = serial_result(size, count, DataType::int64, ReduceOp::sum);
  Bytes first = input;
  Bytes thrown_away = input;
  Bytes last = input;
  std::array<bool, 3> told{};
  std::string wrong;
  collectives.hold();
  start(first, told[0]);
  if (rank == 0) start(thrown_away, told[1]);
  // Long enough for every rank to bring all that it can.
  for (int i = 0; i < 2000; ++i) {
    if (!collectives.advance(context)) std::this_thread::yield();
  }
  if (told[0] || told[1] || first != input) wrong += "delivered while held; ";
  collectives.release();
  if (rank != 0) start(thrown_away, told[1]);
  collectives.discard(1);
  start(last, told[2]);
  run_until([&] { return collectives.under_way() == 0; });
  if (first != sum || last != sum || !told[2]) wrong += "wrong sum; ";
  if (told[1] || thrown_away != input) wrong += "delivered what was thrown away; ";
  return wrong;
}

}  // namespace scalecom::test
