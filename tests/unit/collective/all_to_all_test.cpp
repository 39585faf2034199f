#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "collective/message_collectives.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/repeat.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;

namespace {

using Bytes = std::vector<std::byte>;
using BytesOf = std::int64_t (*)(int from, int to);

std::int64_t equal_parts(int, int) { return 1000; }
// Empty ones, also to oneself, and some of several chunks; different in both directions.
std::int64_t uneven_parts(int from, int to) {
  if ((from + 2 * to) % 4 == 0) return 0;
  return from == 1 && to % 2 == 0 ? 600'001 : 10 * from + to + 1;
}
std::int64_t all_to_last(int, int to) { return to == 2 ? 5000 : 0; }
std::int64_t nothing(int, int) { return 0; }

// Different for every pair, and along the part.
void append_part(Bytes& bytes, int from, int to, std::int64_t size) {
  Bytes part(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < std::min<std::int64_t>(size, 251); ++i) {
    part[static_cast<std::size_t>(i)] =
        static_cast<std::byte>((i * 31 + from * 101 + to * 59) % 251);
  }
  test::repeat(part, 251);
  bytes.insert(bytes.end(), part.begin(), part.end());
}

struct RankParts {
  Bytes send;
  Bytes expected;
  std::vector<std::int64_t> send_bytes;
  std::vector<std::int64_t> receive_bytes;
};

RankParts parts_of(int rank, int size, BytesOf bytes_of) {
  RankParts parts;
  for (int peer = 0; peer < size; ++peer) {
    parts.send_bytes.push_back(bytes_of(rank, peer));
    parts.receive_bytes.push_back(bytes_of(peer, rank));
    append_part(parts.send, rank, peer, parts.send_bytes.back());
    append_part(parts.expected, peer, rank, parts.receive_bytes.back());
  }
  return parts;
}

}  // namespace

TEST_CASE("all-to-all brings every part to its rank, in rank order, and sends each byte once") {
  const int size = GENERATE(1, 2, 3, 4, 5, 6, 7, 8, 9, 16);
  const BytesOf bytes_of = GENERATE(&equal_parts, &uneven_parts, &all_to_last, &nothing);
  LoopbackWorld world(size);
  std::vector<char> is_right(static_cast<std::size_t>(size));
  std::vector<char> is_sent_once(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    const RankParts parts = parts_of(rank, size, bytes_of);
    Bytes received(parts.expected.size());
    collectives.all_to_all(parts.send, parts.send_bytes, received, parts.receive_bytes,
                           {Deadline::after(std::chrono::seconds(60)), nullptr});
    is_right[r] = received == parts.expected;
    const auto all =
        std::accumulate(parts.send_bytes.begin(), parts.send_bytes.end(), std::int64_t{0});
    is_sent_once[r] = transport->counters().bytes_sent == all - parts.send_bytes[r];
  });
  for (std::size_t rank = 0; rank < is_right.size(); ++rank) {
    CAPTURE(size, rank);
    CHECK(is_right[rank]);
    CHECK(is_sent_once[rank]);
  }
}

TEST_CASE("a lost rank ends every other rank's all-to-all, a deadline ends a lonely one") {
  LoopbackWorld world(7);
  std::vector<StatusCode> codes(7, StatusCode::ok);
  test::run_ranks(7, [&](int rank) {
    if (rank == 3) {
      world.lose(3);
      return;
    }
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    const RankParts parts = parts_of(rank, 7, equal_parts);
    Bytes received(parts.expected.size());
    try {
      collectives.all_to_all(parts.send, parts.send_bytes, received, parts.receive_bytes,
                             {Deadline::after(std::chrono::seconds(2)), nullptr});
    } catch (const Error& error) {
      codes[static_cast<std::size_t>(rank)] = error.code();
    }
    world.lose(rank);
  });
  for (const int rank : {0, 1, 2, 4, 5, 6}) {
    CHECK(codes[static_cast<std::size_t>(rank)] == StatusCode::rank_lost);
  }
  LoopbackWorld two(2);
  const auto transport = two.make_transport(0);
  MessageCollectives lonely(*transport);
  const RankParts parts = parts_of(0, 2, equal_parts);
  Bytes received(parts.expected.size());
  CHECK_THROWS_WITH(lonely.all_to_all(parts.send, parts.send_bytes, received, parts.receive_bytes,
                                      {Deadline::after(std::chrono::milliseconds(20)), nullptr}),
                    Catch::Contains("all-to-all") && Catch::Contains("deadline"));
}
