#include <numeric>

#include "base/error.hpp"
#include "collective/algorithms.hpp"
#include "collective/message_collectives.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

using ReduceScatter = void (*)(const Group&, std::span<const std::span<std::byte>>,
                               const Reduction&);

struct Case {
  DataType dtype = DataType::float32;
  ReduceOp op = ReduceOp::sum;
  std::vector<std::int64_t> counts;  ///< elements of each part
};

std::vector<std::int64_t> bytes_of(const Case& given) {
  std::vector<std::int64_t> bytes;
  for (const std::int64_t count : given.counts) bytes.push_back(count * size_of(given.dtype));
  return bytes;
}

// Empty ones, single elements, and one that takes several chunks.
Case uneven(int size, std::int64_t largest) {
  Case given;
  for (int rank = 0; rank < size; ++rank) {
    given.counts.push_back(rank == size / 2 ? largest : rank % 3 == 1 ? 0 : 3 * rank + 1);
  }
  return given;
}

Bytes part_of_rank(const Bytes& data, const Case& given, int rank) {
  const auto bytes = bytes_of(given);
  const auto begin = std::accumulate(bytes.begin(), bytes.begin() + rank, std::int64_t{0});
  return {data.begin() + begin, data.begin() + begin + bytes[static_cast<std::size_t>(rank)]};
}

// Every rank's part.
std::vector<Bytes> run(const Case& given, ReduceScatter reduce_scatter,
                       std::vector<std::int64_t>* bytes_sent = nullptr) {
  const int size = static_cast<int>(given.counts.size());
  const auto count = std::accumulate(given.counts.begin(), given.counts.end(), std::int64_t{0});
  const auto bytes = bytes_of(given);
  LoopbackWorld world(size);
  std::vector<Bytes> parts(static_cast<std::size_t>(size));
  if (bytes_sent != nullptr) bytes_sent->resize(static_cast<std::size_t>(size));
  run_ranks(size, [&](int rank) {
    const auto transport = world.make_transport(rank);
    const WaitContext context = patience();
    Bytes data = input_of(rank, count, given.dtype);
    if (reduce_scatter == nullptr) {
      MessageCollectives(*transport).reduce_scatter(data, bytes, given.dtype, given.op, context);
    } else {
      Scratch scratch;
      reduce_scatter({*transport, scratch, context}, cut(std::span(data), bytes),
                     {given.dtype, given.op});
    }
    parts[static_cast<std::size_t>(rank)] = part_of_rank(data, given, rank);
    if (bytes_sent != nullptr) {
      (*bytes_sent)[static_cast<std::size_t>(rank)] = transport->counters().bytes_sent;
    }
  });
  return parts;
}

// Reduced in the order that the algorithm promises, so that all bits are fixed.
Bytes expected_part(const Case& given, int rank, bool is_in_rank_order) {
  const int size = static_cast<int>(given.counts.size());
  const auto count = std::accumulate(given.counts.begin(), given.counts.end(), std::int64_t{0});
  const auto contribution = [&](int step) {
    const int from = is_in_rank_order ? step : (rank - step + size) % size;
    return part_of_rank(input_of(from, count, given.dtype), given, rank);
  };
  Bytes result = contribution(0);
  for (int step = 1; step < size; ++step) {
    kernels::reduce(result.data(), result.data(), contribution(step).data(),
                    given.counts[static_cast<std::size_t>(rank)], given.dtype, given.op);
  }
  return result;
}

}  // namespace

TEST_CASE("reduce-scatter gives each rank its part, of any sizes, in the promised order") {
  const int size = GENERATE(1, 2, 3, 4, 5, 6, 7, 8, 9, 16);
  const std::int64_t largest = GENERATE(1, 1009, 200'001);
  const bool is_direct = GENERATE(true, false);
  CAPTURE(size, largest, is_direct);
  const Case given = uneven(size, largest);
  const auto parts = run(given, is_direct ? direct_reduce_scatter : pairwise_reduce_scatter);
  for (int rank = 0; rank < size; ++rank) {
    REQUIRE(parts[static_cast<std::size_t>(rank)] == expected_part(given, rank, is_direct));
  }
}

TEST_CASE("reduce-scatter takes every dtype and op") {
  const int size = GENERATE(2, 3, 7);
  const bool is_direct = GENERATE(true, false);
  Case given = uneven(size, 257);
  given.dtype = GENERATE(DataType::uint8, DataType::int8, DataType::int16, DataType::int32,
                         DataType::int64, DataType::float16, DataType::bfloat16, DataType::float32,
                         DataType::float64, DataType::boolean);
  given.op = GENERATE(ReduceOp::sum, ReduceOp::min, ReduceOp::max, ReduceOp::product);
  CAPTURE(size, is_direct, to_string(given.dtype), to_string(given.op));
  const auto parts = run(given, is_direct ? direct_reduce_scatter : pairwise_reduce_scatter);
  for (int rank = 0; rank < size; ++rank) {
    REQUIRE(parts[static_cast<std::size_t>(rank)] == expected_part(given, rank, is_direct));
  }
}

TEST_CASE("the chosen reduce-scatter is direct for few ranks or bytes, else pairwise") {
  for (const auto& [size, largest, is_direct] :
       {std::tuple{4, 300'000, true}, {9, 1000, true}, {9, 300'000, false}}) {
    const Case given = uneven(size, largest);
    const auto parts = run(given, nullptr);
    for (int rank = 0; rank < size; ++rank) {
      CAPTURE(size, largest, rank);
      REQUIRE(parts[static_cast<std::size_t>(rank)] == expected_part(given, rank, is_direct));
    }
  }
}

TEST_CASE("a rank of a reduce-scatter sends everything but its own part, once") {
  const int size = GENERATE(1, 2, 5, 8);
  const bool is_direct = GENERATE(true, false);
  const Case given = uneven(size, 100'003);
  const auto bytes = bytes_of(given);
  std::vector<std::int64_t> sent;
  run(given, is_direct ? direct_reduce_scatter : pairwise_reduce_scatter, &sent);
  const auto all = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
  for (std::size_t rank = 0; rank < bytes.size(); ++rank) CHECK(sent[rank] == all - bytes[rank]);
}

TEST_CASE("a lost rank ends every other rank's reduce-scatter") {
  const ReduceScatter reduce_scatter = GENERATE(&direct_reduce_scatter, &pairwise_reduce_scatter);
  const Case given{DataType::float32, ReduceOp::sum, std::vector<std::int64_t>(5, 100'000)};
  LoopbackWorld world(5);
  std::vector<StatusCode> codes(5, StatusCode::ok);
  run_ranks(5, [&](int rank) {
    if (rank == 3) {
      world.lose(3);
      return;
    }
    const auto transport = world.make_transport(rank);
    Scratch scratch;
    const WaitContext context{Deadline::after(std::chrono::seconds(2)), nullptr};
    Bytes data = input_of(rank, 500'000, DataType::float32);
    try {
      reduce_scatter({*transport, scratch, context}, cut(std::span(data), bytes_of(given)), {});
    } catch (const Error& error) {
      codes[static_cast<std::size_t>(rank)] = error.code();
    }
    // As the coordinator does after a failure: whoever waits for this rank must hear of it.
    world.lose(rank);
  });
  for (const int rank : {0, 1, 2, 4}) {
    CHECK(codes[static_cast<std::size_t>(rank)] == StatusCode::rank_lost);
  }
}
