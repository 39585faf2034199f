#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "collective/message_collectives.hpp"
#include "kernels/reduce.hpp"
#include "scalecom/status.hpp"
#include "tests/mpi/world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

using Bytes = std::vector<std::byte>;

WaitContext patience() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

// Small whole numbers, exact in every dtype.
Bytes input_of(int rank, std::int64_t count, DataType dtype) {
  Bytes ones(static_cast<std::size_t>(count * size_of(dtype)));
  const auto put = [&](std::int64_t i, auto value) {
    std::memcpy(ones.data() + i * size_of(dtype), &value, sizeof value);
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<int>((i + rank) % 3 == 0);
    switch (dtype) {
      case DataType::float32: put(i, static_cast<float>(value + rank)); break;
      case DataType::float64: put(i, static_cast<double>(value + rank)); break;
      case DataType::float16: put(i, static_cast<std::uint16_t>(value * 0x3c00)); break;
      case DataType::bfloat16: put(i, static_cast<std::uint16_t>(value * 0x3f80)); break;
      case DataType::int64: put(i, static_cast<std::int64_t>(value + rank)); break;
      case DataType::int32: put(i, value + rank); break;
      case DataType::int16: put(i, static_cast<std::int16_t>(value + rank)); break;
      default: put(i, static_cast<std::uint8_t>(value)); break;
    }
  }
  return ones;
}

Bytes serial(int size, std::int64_t count, DataType dtype, ReduceOp op) {
  Bytes result = input_of(0, count, dtype);
  for (int rank = 1; rank < size; ++rank) {
    kernels::reduce(result.data(), result.data(), input_of(rank, count, dtype).data(), count, dtype,
                    op);
  }
  return result;
}

// MPI's own, and ours over MPI messages.
struct Implementation {
  explicit Implementation(bool is_native, const std::string& algorithm = "auto") {
    MpiBackend& backend = test::mpi_world();
    transport = backend.make_transport();
    if (is_native) {
      collectives = backend.make_collectives();
    } else {
      collectives = std::make_unique<MessageCollectives>(*transport, algorithm);
    }
  }
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Collectives> collectives;
};

int rank_here() { return test::mpi_world().bootstrap().rank(); }
int size_here() { return test::mpi_world().bootstrap().size(); }

// Of many magnitudes and both signs, so that a sum depends on its order.
template <class Value>
std::vector<Value> uneven_values(int rank, std::size_t count) {
  std::mt19937_64 random(1234u + static_cast<unsigned>(rank));
  std::vector<Value> values(count);
  for (Value& value : values) {
    const auto mantissa = static_cast<Value>(random() >> 11) / static_cast<Value>(1ull << 53);
    value = std::ldexp(mantissa - Value{0.5}, static_cast<int>(random() % 16));
  }
  return values;
}

}  // namespace

TEST_CASE("the bootstrap gives everyone's blob to everyone, empty ones too") {
  Bootstrap& bootstrap = test::mpi_world().bootstrap();
  const std::string mine(static_cast<std::size_t>(bootstrap.rank() * 1000), 'x');
  const auto blobs = bootstrap.exchange(mine, test::kLimit);
  REQUIRE(blobs.size() == static_cast<std::size_t>(bootstrap.size()));
  for (std::size_t r = 0; r < blobs.size(); ++r) CHECK(blobs[r].size() == r * 1000);
}

TEST_CASE("all-reduce over MPI equals the serial one, for every dtype and op") {
  const bool is_native = GENERATE(false, true);
  const DataType dtype = GENERATE(DataType::uint8, DataType::int8, DataType::int16, DataType::int32,
                                  DataType::int64, DataType::float16, DataType::bfloat16,
                                  DataType::float32, DataType::float64, DataType::boolean);
  const ReduceOp op = GENERATE(ReduceOp::sum, ReduceOp::min, ReduceOp::max, ReduceOp::product);
  Implementation implementation(is_native);
  for (const std::int64_t count : {0, 1, 1009, 70'001}) {
    CAPTURE(is_native, to_string(dtype), to_string(op), count);
    Bytes data = input_of(rank_here(), count, dtype);
    implementation.collectives->all_reduce(data, dtype, op, patience());
    REQUIRE(data == serial(size_here(), count, dtype, op));
  }
}

TEST_CASE("every algorithm works over MPI") {
  const std::string algorithm =
      GENERATE("direct", "ring", "recursive_doubling", "halving_doubling", "double_tree");
  const auto transport = test::mpi_world().make_transport();
  MessageCollectives collectives(*transport, algorithm);
  for (const std::int64_t count : {1, 5000, 500'009}) {
    CAPTURE(algorithm, count);
    Bytes data = input_of(rank_here(), count, DataType::int32);
    collectives.all_reduce(data, DataType::int32, ReduceOp::sum, patience());
    REQUIRE(data == serial(size_here(), count, DataType::int32, ReduceOp::sum));
  }
}

TEMPLATE_TEST_CASE("inexact sums are the same bits on every rank, and close to the exact sum", "",
                   float, double) {
  // MPI's own first; "direct" to "double_tree" are ours.
  const std::string algorithm =
      GENERATE("mpi", "direct", "ring", "recursive_doubling", "halving_doubling", "double_tree");
  constexpr std::size_t kCount = 20'011;
  const int size = size_here();
  const DataType dtype = std::is_same_v<TestType, float> ? DataType::float32 : DataType::float64;
  Implementation implementation(algorithm == "mpi", algorithm);
  std::vector<long double> exact(kCount);
  std::vector<long double> magnitude(kCount);
  std::vector<TestType> data;
  for (int rank = 0; rank < size; ++rank) {
    const auto values = uneven_values<TestType>(rank, kCount);
    for (std::size_t i = 0; i < kCount; ++i) {
      exact[i] += values[i];
      magnitude[i] += std::abs(values[i]);
    }
    if (rank == rank_here()) data = values;
  }
  implementation.collectives->all_reduce(std::as_writable_bytes(std::span(data)), dtype,
                                         ReduceOp::sum, patience());
  const std::string bits(reinterpret_cast<const char*>(data.data()), kCount * sizeof(TestType));
  for (const std::string& others : test::mpi_world().bootstrap().exchange(bits, test::kLimit)) {
    REQUIRE(others == bits);
  }
  // A sum of n numbers in any order: n - 1 roundings, each of half an epsilon of a partial sum.
  const long double tolerance = (size - 1) * std::numeric_limits<TestType>::epsilon();
  for (std::size_t i = 0; i < kCount; ++i) {
    REQUIRE(std::abs(data[i] - exact[i]) <= tolerance * magnitude[i]);
  }
}

TEST_CASE("broadcast from every root and all-gather of unequal parts") {
  const bool is_native = GENERATE(false, true);
  Implementation implementation(is_native);
  const int size = size_here();
  for (int root = 0; root < size; ++root) {
    Bytes data = input_of(rank_here(), 600'000, DataType::uint8);
    implementation.collectives->broadcast(data, root, patience());
    REQUIRE(data == input_of(root, 600'000, DataType::uint8));
  }
  std::vector<std::int64_t> bytes_per_rank;
  for (int rank = 0; rank < size; ++rank) bytes_per_rank.push_back(rank == 1 ? 0 : rank * 7000 + 1);
  Bytes all(static_cast<std::size_t>(
      std::accumulate(bytes_per_rank.begin(), bytes_per_rank.end(), std::int64_t{0})));
  const Bytes mine =
      input_of(rank_here(), bytes_per_rank[static_cast<std::size_t>(rank_here())], DataType::uint8);
  implementation.collectives->all_gather(mine, all, bytes_per_rank, patience());
  std::size_t begin = 0;
  for (int rank = 0; rank < size; ++rank) {
    const Bytes part =
        input_of(rank, bytes_per_rank[static_cast<std::size_t>(rank)], DataType::uint8);
    REQUIRE(std::equal(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(begin)));
    begin += part.size();
  }
}

TEST_CASE("reduce-scatter over MPI gives each rank its part, for every dtype and op") {
  const bool is_native = GENERATE(false, true);
  const DataType dtype = GENERATE(DataType::uint8, DataType::int8, DataType::int16, DataType::int32,
                                  DataType::int64, DataType::float16, DataType::bfloat16,
                                  DataType::float32, DataType::float64, DataType::boolean);
  const ReduceOp op = GENERATE(ReduceOp::sum, ReduceOp::min, ReduceOp::max, ReduceOp::product);
  Implementation implementation(is_native);
  const auto size = static_cast<std::size_t>(size_here());
  const auto rank = static_cast<std::size_t>(rank_here());
  for (const std::int64_t largest : {0, 3, 70'001}) {
    CAPTURE(is_native, to_string(dtype), to_string(op), largest);
    std::vector<std::int64_t> bytes(size);
    for (std::size_t r = 0; r < size; ++r) bytes[r] = r == 1 ? 0 : largest * size_of(dtype);
    const auto all = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
    Bytes data = input_of(rank_here(), all / size_of(dtype), dtype);
    implementation.collectives->reduce_scatter(data, bytes, dtype, op, patience());
    const Bytes expected = serial(size_here(), all / size_of(dtype), dtype, op);
    const auto begin = std::accumulate(bytes.begin(), bytes.begin() + rank_here(), std::int64_t{0});
    REQUIRE(std::equal(data.begin() + begin, data.begin() + begin + bytes[rank],
                       expected.begin() + begin));
  }
}

TEST_CASE("all-to-all over MPI brings unequal and empty parts to their ranks") {
  const bool is_native = GENERATE(false, true);
  Implementation implementation(is_native);
  const auto bytes_of = [](int from, int to) -> std::int64_t {
    if ((from + 2 * to) % 4 == 0) return 0;
    return from == 1 ? 300'001 : 10 * from + to + 1;
  };
  Bytes send;
  Bytes expected;
  std::vector<std::int64_t> send_bytes;
  std::vector<std::int64_t> receive_bytes;
  const auto append = [](Bytes& bytes, int from, int to, std::int64_t size) {
    for (std::int64_t i = 0; i < size; ++i) {
      bytes.push_back(static_cast<std::byte>((i * 31 + from * 101 + to * 59) % 251));
    }
  };
  for (int peer = 0; peer < size_here(); ++peer) {
    send_bytes.push_back(bytes_of(rank_here(), peer));
    receive_bytes.push_back(bytes_of(peer, rank_here()));
    append(send, rank_here(), peer, send_bytes.back());
    append(expected, peer, rank_here(), receive_bytes.back());
  }
  for (int call = 0; call < 3; ++call) {
    Bytes received(expected.size());
    implementation.collectives->all_to_all(send, send_bytes, received, receive_bytes, patience());
    REQUIRE(received == expected);
  }
}

TEST_CASE("a wait over MPI ends at its deadline, and a cancelled transport refuses") {
  const auto transport = test::mpi_world().make_transport();
  std::byte byte{};
  // A tag that nobody sends with.
  TransportRequest request =
      transport->post_receive({&byte, 1}, (rank_here() + 1) % size_here(), 99);
  CHECK_THROWS_WITH(wait(*transport, request,
                         {Deadline::after(std::chrono::milliseconds(20)), nullptr}, "a test"),
                    Catch::Contains("a test"));
  transport->cancel_all();
  CHECK_THROWS_AS(transport->post_receive({&byte, 1}, 0, 99), Error);
}

TEST_CASE("the library, its thread level and whether it takes CUDA memory are named") {
  CHECK_FALSE(test::mpi_world().library_version().empty());
  CHECK_THAT(test::mpi_world().thread_level(), Catch::StartsWith("MPI_THREAD_"));
  // Open MPI and MPICH have words for it.
  CHECK_THAT(test::mpi_world().cuda_aware(), Catch::Equals("yes") || Catch::Equals("no"));
}
