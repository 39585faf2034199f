#include <algorithm>

#include "base/error.hpp"
#include "collective/message_collectives.hpp"
#include "collective/selector.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

std::vector<Bytes> run(int size, std::int64_t count, DataType dtype, ReduceOp op,
                       const std::string& algorithm,
                       std::vector<TransportCounters>* counters = nullptr) {
  LoopbackWorld world(size);
  std::vector<Bytes> results(static_cast<std::size_t>(size));
  if (counters != nullptr) counters->resize(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport, algorithm);
    Bytes data = input_of(rank, count, dtype);
    collectives.all_reduce(data, dtype, op, patience());
    results[static_cast<std::size_t>(rank)] = std::move(data);
    if (counters != nullptr) (*counters)[static_cast<std::size_t>(rank)] = transport->counters();
  });
  return results;
}

std::vector<std::string> message_algorithms() {
  auto names = allreduce_algorithm_names();
  std::erase(names, "mpi");
  return names;
}

}  // namespace

TEST_CASE("every algorithm reduces any number of elements on any number of ranks, bit-identical") {
  const int size = GENERATE(1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33);
  const std::string algorithm = GENERATE(from_range(message_algorithms()));
  CAPTURE(size, algorithm);
  // 0, 1, around the number of ranks, a prime, and across chunk borders of 16 KiB and 64 KiB.
  std::vector<std::int64_t> counts{0, 1, size - 1, size, 1009};
  if (size <= 9) counts.push_back(size <= 4 ? 150'001 : 70'001);
  for (const std::int64_t count : counts) {
    const auto results = run(size, count, DataType::float32, ReduceOp::sum, algorithm);
    const Bytes expected = serial_result(size, count, DataType::float32, ReduceOp::sum);
    for (const Bytes& result : results) {
      REQUIRE(result == results[0]);
      REQUIRE(is_close(result, expected, DataType::float32));
    }
  }
}

TEST_CASE("every dtype and op works with every algorithm") {
  const int size = GENERATE(2, 3, 5);
  const std::string algorithm = GENERATE(from_range(message_algorithms()));
  const DataType dtype =
      GENERATE(DataType::uint8, DataType::int8, DataType::int16, DataType::int32, DataType::int64,
               DataType::float32, DataType::float64, DataType::boolean);
  const ReduceOp op = GENERATE(ReduceOp::sum, ReduceOp::min, ReduceOp::max, ReduceOp::product);
  CAPTURE(size, algorithm, to_string(dtype), to_string(op));
  const auto results = run(size, 257, dtype, op, algorithm);
  const Bytes expected = serial_result(size, 257, dtype, op);
  for (const Bytes& result : results) {
    REQUIRE(result == results[0]);
    REQUIRE(is_close(result, expected, dtype));
  }
}

TEST_CASE("up to 4 ranks the default equals the serial reduction bit for bit") {
  const int size = GENERATE(1, 2, 3, 4);
  const DataType dtype = GENERATE(DataType::float32, DataType::float64, DataType::float16,
                                  DataType::bfloat16, DataType::int32);
  const std::int64_t count = GENERATE(1, 511, 513, 100'003);
  CAPTURE(size, to_string(dtype), count);
  for (const Bytes& result : run(size, count, dtype, ReduceOp::sum, "auto")) {
    REQUIRE(result == serial_result(size, count, dtype, ReduceOp::sum));
  }
}

TEST_CASE("the bytes sent are those of the algorithm's formula") {
  const std::int64_t count = 840 * 64;  // divisible by every rank count here
  const std::int64_t bytes = count * 4;
  const auto sent = [&](int size, const std::string& algorithm) {
    std::vector<TransportCounters> counters;
    run(size, count, DataType::float32, ReduceOp::sum, algorithm, &counters);
    std::vector<std::int64_t> per_rank;
    for (const auto& counter : counters) per_rank.push_back(counter.bytes_sent);
    return per_rank;
  };
  for (const int size : {2, 3, 4, 5, 7, 8}) {
    for (const std::string algorithm : {"direct", "ring"}) {
      for (const std::int64_t of_rank : sent(size, algorithm)) {
        CHECK(of_rank == 2 * (size - 1) * (bytes / size));
      }
    }
  }
  for (const std::int64_t of_rank : sent(8, "recursive_doubling")) CHECK(of_rank == 3 * bytes);
  for (const std::int64_t of_rank : sent(8, "halving_doubling"))
    CHECK(of_rank == 2 * 7 * bytes / 8);
  for (const std::int64_t of_rank : sent(8, "double_tree")) CHECK(of_rank <= 2 * bytes);
}

TEST_CASE("a lost rank ends every other rank's all-reduce, a deadline ends a lonely one") {
  const std::string algorithm = GENERATE(from_range(message_algorithms()));
  LoopbackWorld world(5);
  std::vector<StatusCode> codes(5, StatusCode::ok);
  test::run_ranks(5, [&](int rank) {
    if (rank == 3) {
      world.lose(3);
      return;
    }
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport, algorithm);
    Bytes data = input_of(rank, 50'000, DataType::float32);
    try {
      collectives.all_reduce(data, DataType::float32, ReduceOp::sum,
                             {Deadline::after(std::chrono::seconds(2)), nullptr});
    } catch (const Error& error) {
      codes[static_cast<std::size_t>(rank)] = error.code();
    }
    // As the coordinator does after a failure: whoever waits for this rank must hear of it.
    world.lose(rank);
  });
  for (const int rank : {0, 1, 2, 4}) {
    CHECK(codes[static_cast<std::size_t>(rank)] == StatusCode::rank_lost);
  }
  LoopbackWorld two(2);
  const auto transport = two.make_transport(0);
  MessageCollectives lonely(*transport, algorithm);
  Bytes data = input_of(0, 50'000, DataType::float32);
  CHECK_THROWS_WITH(lonely.all_reduce(data, DataType::float32, ReduceOp::sum,
                                      {Deadline::after(std::chrono::milliseconds(20)), nullptr}),
                    Catch::Contains("deadline"));
}

TEST_CASE("more than 2^31 bytes are reduced", "[slow]") {
  constexpr std::int64_t kCount = (1LL << 31) + 12'345;
  LoopbackWorld world(2);
  std::vector<char> is_right(2);
  test::run_ranks(2, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    Bytes data(kCount, static_cast<std::byte>(rank + 1));
    collectives.all_reduce(data, DataType::uint8, ReduceOp::sum,
                           {Deadline::after(std::chrono::minutes(10)), nullptr});
    is_right[static_cast<std::size_t>(rank)] =
        std::all_of(data.begin(), data.end(), [](std::byte byte) { return byte == std::byte{3}; });
  });
  CHECK(is_right[0]);
  CHECK(is_right[1]);
}
