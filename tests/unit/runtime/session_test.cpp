#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using test::SessionWorld;
using test::view_of;

namespace {

std::vector<float> values_of(int rank, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>((rank + 1) * 1000 + static_cast<int>(i % 997));
  }
  return values;
}

std::vector<float> sum_of(int size, std::size_t count) {
  std::vector<float> sum = values_of(0, count);
  for (int rank = 1; rank < size; ++rank) {
    const auto more = values_of(rank, count);
    for (std::size_t i = 0; i < count; ++i) sum[i] += more[i];
  }
  return sum;
}

}  // namespace

TEST_CASE("a dense all-reduce gives every rank the sum, in place and out of place") {
  const int size = GENERATE(1, 2, 3, 4, 7);
  const std::size_t count = GENERATE(0, 1, 1000, 100'003);
  SessionWorld world(size);
  std::vector<std::vector<float>> in_place(static_cast<std::size_t>(size));
  std::vector<std::vector<float>> results(static_cast<std::size_t>(size));
  std::vector<std::vector<float>> inputs(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    inputs[r] = in_place[r] = values_of(rank, count);
    results[r].resize(count);
    AllReduceOptions sum;
    sum.op = ReduceOp::sum;
    const Ticket out = world[rank].all_reduce("out", view_of(inputs[r]), view_of(results[r]), sum);
    const Ticket in = world[rank].all_reduce("in", view_of(in_place[r]), view_of(in_place[r]), sum);
    if (!out.wait().is_ok() || !in.wait().is_ok()) throw std::runtime_error(out.wait().message());
  });
  const auto expected = sum_of(size, count);
  for (int rank = 0; rank < size; ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    CHECK(in_place[r] == expected);
    CHECK(results[r] == expected);
    CHECK(inputs[r] == values_of(rank, count));
  }
}

// Parallel vectors have an Adasum that is known: their mean, if there are two of them.
TEST_CASE("Adasums between sums that repeat give every rank the same, step after step") {
  constexpr int kSteps = 40;
  SessionWorld world(2);
  std::array<std::vector<float>, 2> sums;
  std::array<std::vector<float>, 2> means;
  test::run_ranks(2, [&](int rank) {
    AllReduceOptions sum;
    sum.op = ReduceOp::sum;
    AllReduceOptions adasum;
    adasum.op = ReduceOp::adasum;
    for (int step = 0; step < kSteps; ++step) {
      std::vector<float> summed(100, static_cast<float>(rank + step));
      std::vector<float> combined(300, static_cast<float>(rank + 1));
      const Ticket first = world[rank].all_reduce("sum", view_of(summed), view_of(summed), sum);
      const Ticket second =
          world[rank].all_reduce("adasum", view_of(combined), view_of(combined), adasum);
      if (!first.wait().is_ok() || !second.wait().is_ok()) {
        throw std::runtime_error(first.wait().message() + second.wait().message());
      }
      sums[static_cast<std::size_t>(rank)].push_back(summed.back());
      means[static_cast<std::size_t>(rank)].push_back(combined.back());
    }
  });
  std::vector<float> expected;
  for (int step = 0; step < kSteps; ++step) expected.push_back(static_cast<float>(2 * step + 1));
  for (std::size_t rank = 0; rank < 2; ++rank) {
    CHECK(sums[rank] == expected);
    CHECK(means[rank] == std::vector<float>(kSteps, 1.5f));
  }
}

TEST_CASE("average, prescale and postscale are folded in, alone and fused") {
  const int size = 3;
  SessionWorld world(size);
  std::vector<std::vector<float>> gathered(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    std::vector<float> a{3.0f * static_cast<float>(rank)};
    std::vector<float> b{5.0f};
    AllReduceOptions options;
    options.prescale = 2.0;
    options.postscale = 0.5;
    const Ticket first = world[rank].all_reduce("a", view_of(a), view_of(a), options);
    const Ticket second = world[rank].all_reduce("b", view_of(b), view_of(b), options);
    first.wait();
    second.wait();
    gathered[static_cast<std::size_t>(rank)] = {a[0], b[0]};
  });
  for (const auto& values : gathered) CHECK(values == std::vector<float>{3.0f, 5.0f});
}

TEST_CASE("hundreds of tensors submitted in a different order on each rank all complete") {
  const int size = GENERATE(2, 4);
  constexpr int kTensors = 160;
  SessionWorld world(size);
  std::vector<int> wrong(static_cast<std::size_t>(size));
  std::vector<SessionStats> stats(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    std::vector<std::vector<float>> tensors;
    for (int i = 0; i < kTensors; ++i) {
      tensors.push_back({static_cast<float>(i), static_cast<float>(rank)});
    }
    for (int step = 0; step < 3; ++step) {
      std::vector<Ticket> tickets;
      AllReduceOptions options;
      options.op = ReduceOp::max;
      for (int k = 0; k < kTensors; ++k) {
        const int i = (k * 7 + rank * 31) % kTensors;
        auto& tensor = tensors[static_cast<std::size_t>(i)];
        tickets.push_back(world[rank].all_reduce("t" + std::to_string(i), view_of(tensor),
                                                 view_of(tensor), options));
      }
      for (const Ticket& ticket : tickets) {
        if (!ticket.wait().is_ok()) ++wrong[static_cast<std::size_t>(rank)];
      }
    }
    for (int i = 0; i < kTensors; ++i) {
      const std::vector<float> expected{static_cast<float>(i), static_cast<float>(size - 1)};
      if (tensors[static_cast<std::size_t>(i)] != expected) ++wrong[static_cast<std::size_t>(rank)];
    }
    stats[static_cast<std::size_t>(rank)] = world[rank].stats();
  });
  CHECK(std::accumulate(wrong.begin(), wrong.end(), 0) == 0);
  for (const SessionStats& stat : stats) {
    CHECK(stat.tensors_completed == 3 * kTensors);
    CHECK(stat.tensors_negotiated_from_cache == 2 * kTensors);
    CHECK(stat.batches_executed < 3 * kTensors);
  }
}

TEST_CASE("all_gather concatenates unequal first dimensions") {
  const int size = 4;
  SessionWorld world(size);
  std::vector<char> is_right(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    std::vector<float> mine(static_cast<std::size_t>(rank * 3), static_cast<float>(rank));
    const TensorView view{mine.data(), DataType::float32, {rank, 3}, {}};
    const Ticket ticket = world[rank].all_gather("g", view);
    std::vector<float> expected;
    for (int r = 0; r < size; ++r)
      expected.insert(expected.end(), static_cast<std::size_t>(r * 3), static_cast<float>(r));
    bool right = ticket.wait().is_ok();
    const TensorView output = ticket.output();
    right = right && output.shape == Shape{6, 3} &&
            std::memcmp(output.data, expected.data(), expected.size() * sizeof(float)) == 0;
    is_right[static_cast<std::size_t>(rank)] = right;
  });
  for (const char right : is_right) CHECK(right);
}

TEST_CASE("broadcast gives the root's values, barrier waits for all") {
  const int size = 3;
  SessionWorld world(size);
  std::vector<float> seen(static_cast<std::size_t>(size));
  std::atomic<int> arrived{0};
  std::vector<int> arrived_after(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    std::vector<float> values{static_cast<float>(rank)};
    world[rank].broadcast("b", view_of(values), 2).wait();
    seen[static_cast<std::size_t>(rank)] = values[0];
    ++arrived;
    world[rank].barrier().wait();
    arrived_after[static_cast<std::size_t>(rank)] = arrived;
  });
  CHECK(seen == std::vector<float>{2.0f, 2.0f, 2.0f});
  CHECK(arrived_after == std::vector<int>{3, 3, 3});
}

TEST_CASE("batches run in one order on every rank, whatever the order of the submits") {
  // Neighbours differ in value: two batches that swap places on one rank give wrong sums.
  const int size = 3;
  constexpr int kTensors = 40;
  Config config;
  config.fusion_threshold_bytes = 0;
  SessionWorld world(size, config);
  std::vector<std::vector<float>> results(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    std::vector<std::vector<float>> tensors(kTensors, std::vector<float>{1.0f});
    std::vector<Ticket> tickets;
    AllReduceOptions options;
    options.op = ReduceOp::sum;
    for (int k = 0; k < kTensors; ++k) {
      const int i = rank == 1 ? kTensors - 1 - k : k;
      auto& tensor = tensors[static_cast<std::size_t>(i)];
      tensor[0] = static_cast<float>(1 << (i % 8));
      tickets.push_back(world[rank].all_reduce("t" + std::to_string(i), view_of(tensor),
                                               view_of(tensor), options));
    }
    for (const Ticket& ticket : tickets) ticket.wait();
    for (const auto& tensor : tensors) results[static_cast<std::size_t>(rank)].push_back(tensor[0]);
  });
  for (int rank = 0; rank < size; ++rank) {
    for (int i = 0; i < kTensors; ++i) {
      CHECK(results[static_cast<std::size_t>(rank)][static_cast<std::size_t>(i)] ==
            static_cast<float>(size * (1 << (i % 8))));
    }
  }
}

TEST_CASE("poll right after a submit that others have not made is false") {
  SessionWorld world(2);
  std::vector<float> a{1.0f};
  std::vector<float> b{2.0f};
  const Ticket first = world[0].all_reduce("t", view_of(a), view_of(a));
  CHECK_FALSE(first.is_ready());
  CHECK(first.wait_for(std::chrono::milliseconds(20)).code() == StatusCode::timed_out);
  const Ticket second = world[1].all_reduce("t", view_of(b), view_of(b));
  CHECK(first.wait().is_ok());
  CHECK(second.wait().is_ok());
  CHECK(a[0] == 1.5f);
}
