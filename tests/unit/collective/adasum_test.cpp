#include "collective/adasum.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <random>

#include "collective/message_collectives.hpp"
#include "collective/shm/shm_collectives.hpp"
#include "kernels/cpu/half.hpp"
#include "tests/support/board_world.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/host_world.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

using Vector = std::vector<double>;
using Vectors = std::vector<Vector>;  ///< by rank

std::size_t index(int value) { return static_cast<std::size_t>(value); }

double dot(const Vector& a, const Vector& b) {
  long double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<long double>(a[i]) * b[i];
  return static_cast<double>(sum);
}

Vector pair(const Vector& a, const Vector& b) {
  const double norm_a = dot(a, a);
  const double norm_b = dot(b, b);
  const double weight_a = norm_a == 0.0 ? 1.0 : 1.0 - dot(a, b) / (2.0 * norm_a);
  const double weight_b = norm_b == 0.0 ? 1.0 : 1.0 - dot(a, b) / (2.0 * norm_b);
  Vector result(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) result[i] = weight_a * a[i] + weight_b * b[i];
  return result;
}

// The vectors of `ranks` ranks from `first` on, as a tree with a power of two of leaves, of which
// the first `pairs` are pairs of ranks.
Vector tree(const Vectors& vectors, std::size_t first, std::size_t ranks, std::size_t pairs) {
  if (ranks == 1) return vectors[first];
  if (ranks == 2) return pair(vectors[first], vectors[first + 1]);
  const std::size_t leaves = (ranks - pairs) / 2;
  const std::size_t pairs_here = std::min(pairs, leaves);
  const std::size_t here = leaves + pairs_here;
  return pair(tree(vectors, first, here, pairs_here),
              tree(vectors, first + here, ranks - here, pairs - pairs_here));
}

Vector serial(const Vectors& vectors) {
  return tree(vectors, 0, vectors.size(), vectors.size() - std::bit_floor(vectors.size()));
}

Bytes bytes_of(const Vector& values, DataType dtype) {
  Bytes bytes(values.size() * static_cast<std::size_t>(size_of(dtype)));
  std::byte* place = bytes.data();
  for (const double value : values) {
    const auto single = static_cast<float>(value);
    // One element of 16 bits by the library's own conversion, which has its own tests.
    const auto put = [&place](auto element) {
      std::memcpy(place, &element, sizeof element);
      place += sizeof element;
    };
    switch (dtype) {
      case DataType::float64: put(value); break;
      case DataType::float32: put(single); break;
      case DataType::float16: put(kernels::half_of_float(single)); break;
      default: put(kernels::bfloat_of_float(single));
    }
  }
  return bytes;
}

Vector values_of(const Bytes& bytes, DataType dtype) {
  Vector values;
  const auto element = static_cast<std::size_t>(size_of(dtype));
  for (std::size_t begin = 0; begin < bytes.size(); begin += element) {
    const auto get = [&](auto value) {
      std::memcpy(&value, bytes.data() + begin, sizeof value);
      return value;
    };
    switch (dtype) {
      case DataType::float64: values.push_back(get(0.0)); break;
      case DataType::float32: values.push_back(static_cast<double>(get(0.0f))); break;
      case DataType::float16: values.push_back(kernels::float_of_half(get(std::uint16_t{}))); break;
      default: values.push_back(kernels::float_of_bfloat(get(std::uint16_t{})));
    }
  }
  return values;
}

// What one rank has of each piece.
using Tensors = std::vector<Bytes>;

void reduce(Collectives& collectives, int size, Tensors& tensors, DataType dtype,
            kernels::Scale before = {}, kernels::Scale after = {}) {
  std::vector<Piece> pieces;
  for (Bytes& bytes : tensors) {
    pieces.push_back({bytes.data(), bytes.data(),
                      static_cast<std::int64_t>(bytes.size()) / size_of(dtype), before, after});
  }
  Adasum(collectives, size).reduce(pieces, dtype, patience());
}

/// Calls body(rank, collectives) for each of `size` ranks, in a thread each.
using World =
    std::function<void(int size, const std::function<void(int rank, Collectives& collectives)>&)>;

void by_messages(int size, const std::function<void(int, Collectives&)>& body) {
  LoopbackWorld world(size);
  run_ranks(size, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    body(rank, collectives);
  });
}

void in_shared_memory(int size, const std::function<void(int, Collectives&)>& body) {
  const BoardWorld world(size);
  run_ranks(size, [&](int rank) {
    Board board = world.make_board(rank);
    ShmCollectives collectives(board);
    body(rank, collectives);
  });
}

// Two ranks a host, and one on the last where their number is odd.
void on_hosts(int size, const std::function<void(int, Collectives&)>& body) {
  Job job{{}, size};
  for (int rank = 0; rank < size; ++rank) {
    if (rank % 2 == 0) job.hosts.emplace_back();
    job.hosts.back().push_back(rank);
  }
  run_job(job, 4096, body);
}

constexpr int kSizesMax = 9;
constexpr std::size_t kCounts[] = {0, 1, 2, 7, 1001, 40'000};

// By piece, then by rank; each with a direction that the ranks share, so that products count.
std::vector<Vectors> random_pieces(int size, DataType dtype, std::mt19937& generator) {
  std::normal_distribution<double> normal;
  std::vector<Vectors> pieces;
  for (const std::size_t count : kCounts) {
    Vector shared(count);
    for (double& value : shared) value = normal(generator);
    Vectors& ranks = pieces.emplace_back();
    for (int rank = 0; rank < size; ++rank) {
      Vector mine(count);
      for (std::size_t i = 0; i < count; ++i) {
        mine[i] = (1.0 + rank) * shared[i] + normal(generator);
      }
      ranks.push_back(values_of(bytes_of(mine, dtype), dtype));
    }
  }
  return pieces;
}

std::vector<Tensors> run(const World& world, const std::vector<Vectors>& pieces, DataType dtype,
                         kernels::Scale before = {}, kernels::Scale after = {}) {
  const int size = static_cast<int>(pieces.front().size());
  std::vector<Tensors> results(index(size));
  world(size, [&](int rank, Collectives& collectives) {
    Tensors& mine = results[index(rank)];
    for (const Vectors& piece : pieces) mine.push_back(bytes_of(piece[index(rank)], dtype));
    reduce(collectives, size, mine, dtype, before, after);
  });
  return results;
}

double largest(const Vector& values) {
  double most = 0.0;
  for (const double value : values) most = std::max(most, std::abs(value));
  return most;
}

double largest_difference(const Vector& a, const Vector& b) {
  Vector difference(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return largest(difference);
}

// Of one rounding in each of at most four rounds, relative to a piece's largest element.
double tolerance(DataType dtype) {
  switch (dtype) {
    case DataType::float64: return 1e-14;
    case DataType::float32: return 1e-6;
    case DataType::float16: return 4 * 0x1p-11;
    default: return 4 * 0x1p-8;
  }
}

}  // namespace

TEST_CASE("Adasum equals the serial tree for any ranks, sizes and dtypes, over all collectives") {
  const unsigned seed = 5;
  std::mt19937 generator(seed);
  const World worlds[] = {by_messages, in_shared_memory, on_hosts};
  for (int size = 1; size <= kSizesMax; ++size) {
    for (const DataType dtype :
         {DataType::float16, DataType::bfloat16, DataType::float32, DataType::float64}) {
      const auto pieces = random_pieces(size, dtype, generator);
      for (std::size_t place = 0; place < std::size(worlds); ++place) {
        const auto results = run(worlds[place], pieces, dtype);
        for (std::size_t p = 0; p < pieces.size(); ++p) {
          CAPTURE(seed, size, to_string(dtype), place, pieces[p].front().size());
          const Vector expected = serial(pieces[p]);
          const Vector got = values_of(results[0][p], dtype);
          REQUIRE(got.size() == expected.size());
          CHECK(largest_difference(got, expected) <= tolerance(dtype) * largest(expected));
          for (const Tensors& of_rank : results) CHECK(of_rank[p] == results[0][p]);
        }
      }
    }
  }
}

TEST_CASE("equal vectors stay as they are, and orthogonal ones are summed") {
  for (int size = 1; size <= kSizesMax; ++size) {
    const Vector equal{3.0, -1.5, 0.1, 1e-30, 7.0};
    Vectors orthogonal;
    for (int rank = 0; rank < size; ++rank) {
      orthogonal.emplace_back(index(size), 0.0)[index(rank)] = rank + 0.3;
    }
    const auto results =
        run(by_messages, {Vectors(index(size), equal), orthogonal}, DataType::float64);
    CAPTURE(size);
    CHECK(values_of(results[0][0], DataType::float64) == equal);
    Vector sum(index(size));
    for (int rank = 0; rank < size; ++rank) sum[index(rank)] = rank + 0.3;
    CHECK(values_of(results[0][1], DataType::float64) == sum);
  }
}

TEST_CASE("a zero vector adds nothing, and what is not finite stays in its piece") {
  for (int size = 1; size <= kSizesMax; ++size) {
    const Vector zero(3, 0.0);
    const Vector one{1.0, -2.0, 4.0};
    Vectors alone(index(size), zero);
    Vectors broken(index(size), one);
    alone.back() = one;
    broken.front()[1] = INFINITY;
    const auto results =
        run(by_messages, {Vectors(index(size), zero), alone, broken}, DataType::float32);
    CAPTURE(size);
    CHECK(values_of(results[0][0], DataType::float32) == zero);
    CHECK(values_of(results[0][1], DataType::float32) == one);
    if (size == 1) continue;
    for (const double value : values_of(results[0][2], DataType::float32)) {
      CHECK(std::isnan(value));
    }
  }
}

TEST_CASE("an Adasum is scaled on the way in and out") {
  const Vectors piece{{1.0, 2.0}, {2.0, 4.0}};  // Parallel: their mean.
  const auto results = run(in_shared_memory, {piece}, DataType::float64, {4.0, 1.0}, {1.0, 3.0});
  CHECK(largest_difference(values_of(results[0][0], DataType::float64), {2.0, 4.0}) <= 1e-15);
}

// Up to 4 ranks sums are serial, whatever their size.
TEST_CASE("a piece's result does not depend on what it is fused with") {
  std::mt19937 generator(6);
  for (int size = 2; size <= 4; ++size) {
    const auto pieces = random_pieces(size, DataType::float32, generator);
    const auto fused = run(by_messages, pieces, DataType::float32);
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      CAPTURE(size, p);
      CHECK(run(by_messages, {pieces[p]}, DataType::float32)[0][0] == fused[0][p]);
    }
  }
}

TEST_CASE("an Adasum sends every byte twice but its own part's, and 24 bytes of products a pair") {
  for (const int size : {2, 3, 4, 8}) {
    const auto count = index(size) * 1000;
    std::vector<std::int64_t> sent(index(size));
    by_messages(size, [&](int rank, Collectives& collectives) {
      Tensors tensors{bytes_of(Vector(count, rank + 1.0), DataType::float32)};
      reduce(collectives, size, tensors, DataType::float32);
      sent[index(rank)] = collectives.counters().bytes_sent;
    });
    // Small all-reduces send their vectors to all others, or in log2(n) steps.
    const std::int64_t vectors = 2 * (size - 1) * 4000;
    const std::int64_t products = 24 * (size - 1) * (size - 1);
    for (const std::int64_t bytes : sent) {
      CAPTURE(size, bytes);
      CHECK(bytes > vectors);
      CHECK(bytes <= vectors + products);
    }
  }
}
