#include <algorithm>
#include <numeric>

#include "collective/algorithms.hpp"
#include "collective/message_collectives.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/repeat.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;

namespace {

using Bytes = std::vector<std::byte>;

WaitContext patience() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

Bytes pattern(int rank, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < std::min<std::size_t>(size, 251); ++i) {
    bytes[i] = static_cast<std::byte>((i * 31 + static_cast<std::size_t>(rank) * 101) % 251);
  }
  test::repeat(bytes, 251);
  return bytes;
}

using Broadcast = void (*)(const Group&, std::span<std::byte>, int);

}  // namespace

TEST_CASE("both broadcasts give every rank the root's bytes, from every root") {
  const int size = GENERATE(1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33);
  const std::size_t bytes = GENERATE(0, 1, 1009, 300'001);
  const Broadcast broadcast = GENERATE(&binomial_broadcast, &chain_broadcast);
  std::vector<int> roots{0, size - 1, size / 2};
  if (size <= 9 && bytes <= 1009) {
    roots.resize(static_cast<std::size_t>(size));
    std::iota(roots.begin(), roots.end(), 0);
  }
  if (size > 9 && bytes > 1009) roots = {1};
  for (const int root : roots) {
    LoopbackWorld world(size);
    std::vector<Bytes> results(static_cast<std::size_t>(size));
    test::run_ranks(size, [&](int rank) {
      const auto transport = world.make_transport(rank);
      Scratch scratch;
      const WaitContext context = patience();
      Bytes data = pattern(rank, bytes);
      broadcast({*transport, scratch, context}, data, root);
      results[static_cast<std::size_t>(rank)] = std::move(data);
    });
    for (const Bytes& result : results) REQUIRE(result == pattern(root, bytes));
  }
}

TEST_CASE("all-gather concatenates unequal and empty parts in rank order") {
  const int size = GENERATE(1, 2, 3, 4, 5, 7, 9, 16, 33);
  const bool is_in_place = GENERATE(false, true);
  std::vector<std::int64_t> bytes_per_rank;
  Bytes expected;
  for (int rank = 0; rank < size; ++rank) {
    const auto bytes =
        static_cast<std::size_t>(rank % 3 == 1 ? 0 : (rank == 3 ? 150'000 : 10 * rank + 1));
    bytes_per_rank.push_back(static_cast<std::int64_t>(bytes));
    const Bytes part = pattern(rank, bytes);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  LoopbackWorld world(size);
  std::vector<Bytes> results(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    const auto r = static_cast<std::size_t>(rank);
    Bytes mine = pattern(rank, static_cast<std::size_t>(bytes_per_rank[r]));
    Bytes all(expected.size());
    std::span<const std::byte> input = mine;
    if (is_in_place) {
      const auto begin =
          std::accumulate(bytes_per_rank.begin(), bytes_per_rank.begin() + rank, std::int64_t{0});
      std::copy(mine.begin(), mine.end(), all.begin() + begin);
      input = std::span(all).subspan(static_cast<std::size_t>(begin), mine.size());
    }
    collectives.all_gather(input, all, bytes_per_rank, patience());
    results[r] = std::move(all);
  });
  for (const Bytes& result : results) CHECK(result == expected);
}
