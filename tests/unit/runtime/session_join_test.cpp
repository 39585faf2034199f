// Ranks that are out of data while others go on.
#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr auto kLimit = std::chrono::seconds(60);

std::int64_t last_of(const Ticket& join) {
  REQUIRE(join.wait_for(kLimit).is_ok());
  const TensorView output = join.output();
  REQUIRE(output.dtype == DataType::int64);
  REQUIRE(output.count() == 1);
  return *static_cast<const std::int64_t*>(output.data);
}

AllReduceOptions compressed() {
  AllReduceOptions options;
  options.op = ReduceOp::sum;
  options.compression.mode = CompressionMode::cyclic;
  options.compression.rate = 10;
  options.compression.warmup_steps = 0;
  return options;
}

std::vector<float> values_of(const TensorView& view) {
  const auto* data = static_cast<const float*>(view.data);
  return {data, data + view.count()};
}

std::vector<float> residual_of(SessionWorld& world, int rank) {
  return world[rank].residual("w").values;
}

double sum_of(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

TEST_CASE("a rank that has joined takes part with zeros, and averages divide by all ranks") {
  SessionWorld world(3);
  const Ticket first = world[2].join();
  std::vector<std::vector<float>> tensors = {{3, 6}, {9, 30}};
  std::vector<Ticket> tickets;
  for (int rank = 0; rank < 2; ++rank) {
    const TensorView view = view_of(tensors[static_cast<std::size_t>(rank)]);
    tickets.push_back(world[rank].all_reduce("w", view, view));
  }
  for (const Ticket& ticket : tickets) REQUIRE(ticket.wait_for(kLimit).is_ok());
  CHECK(tensors[0] == std::vector<float>{4, 12});
  CHECK(tensors[1] == std::vector<float>{4, 12});
  CHECK_FALSE(first.is_ready());
  const Ticket second = world[0].join();
  CHECK_THROWS_WITH(world[2].all_reduce("w", view_of(tensors[0]), view_of(tensors[0])),
                    Contains("tensor w: this rank has joined") && Contains("wait for join()"));
  CHECK_THROWS_WITH(world[2].join(), Contains("this rank has joined"));
  // Rank 1 waits for what only it submits, so rank 0's join is known by then.
  const Ticket alone = world[1].barrier();
  REQUIRE(alone.wait_for(kLimit).is_ok());
  const Ticket third = world[1].join();
  CHECK(last_of(first) == 1);
  CHECK(last_of(second) == 1);
  CHECK(last_of(third) == 1);
  CHECK(world[2].stats().tensors_completed == 1);  // Its join.
}

TEST_CASE("a rank that has joined takes part in operations of every kind, many times") {
  SessionWorld world(3);
  const Ticket joined = world[1].join();
  const std::vector<int> others = {0, 2};
  for (int turn = 0; turn < 4; ++turn) {
    std::vector<std::vector<float>> rows = {{1, 2}, {}, {5, 6, 7}};
    std::vector<std::vector<float>> parts = {{1, 2, 3}, {}, {10, 20, 30}};
    std::vector<std::vector<float>> sent = {{7, 8}, {}, {4}};
    std::vector<std::vector<float>> copied = {{1}, {}, {2}};
    std::vector<std::vector<Ticket>> tickets(3);
    ReduceOptions sum;
    sum.op = ReduceOp::sum;
    for (const int rank : others) {
      const auto r = static_cast<std::size_t>(rank);
      tickets[r].push_back(world[rank].all_gather("gathered", view_of(rows[r])));
      tickets[r].push_back(world[rank].reduce_scatter("scattered", view_of(parts[r]), sum));
      tickets[r].push_back(world[rank].all_to_all(
          "exchanged", view_of(sent[r]),
          rank == 0 ? std::vector<std::int64_t>{0, 1, 1} : std::vector<std::int64_t>{1, 0, 0}));
      tickets[r].push_back(world[rank].broadcast("copied", view_of(copied[r]), 2));
    }
    for (const int rank : others) {
      for (const Ticket& ticket : tickets[static_cast<std::size_t>(rank)]) {
        REQUIRE(ticket.wait_for(kLimit).is_ok());
      }
    }
    CHECK(values_of(tickets[0][0].output()) == std::vector<float>{1, 2, 5, 6, 7});
    CHECK(values_of(tickets[2][0].output()) == std::vector<float>{1, 2, 5, 6, 7});
    CHECK(values_of(tickets[0][1].output()) == std::vector<float>{11});
    CHECK(values_of(tickets[2][1].output()) == std::vector<float>{33});
    CHECK(values_of(tickets[0][2].output()) == std::vector<float>{4});
    CHECK(values_of(tickets[2][2].output()) == std::vector<float>{8});
    CHECK(tickets[0][2].received_splits() == std::vector<std::int64_t>{0, 0, 1});
    CHECK(copied[0] == std::vector<float>{2});
  }
  world[0].join();
  world[2].join();
  CHECK(joined.wait_for(kLimit).is_ok());
}

TEST_CASE("a broadcast from a rank that has joined fails, and the session goes on") {
  SessionWorld world(2);
  const Ticket joined = world[1].join();
  std::vector<float> values = {1};
  const Status status = world[0].broadcast("b", view_of(values), 1).wait_for(kLimit);
  CHECK(status.code() == StatusCode::mismatch);
  CHECK_THAT(status.message(),
             Contains("tensor b: rank 1, the root of this broadcast, has joined"));
  const Ticket last = world[0].join();
  CHECK(last_of(last) == 0);
  CHECK(last_of(joined) == 0);
}

// sum over ranks and steps of the gradients = sum over steps of the results + what is owed.
TEST_CASE("what a rank owes of a compressed tensor is delivered while it has joined") {
  SessionWorld world(2);
  constexpr std::size_t kCount = 1000;
  double given = 0;
  double received = 0;
  const auto step = [&](const std::vector<int>& ranks) {
    std::vector<std::vector<float>> tensors(2, std::vector<float>(kCount));
    std::vector<Ticket> tickets;
    for (const int rank : ranks) {
      std::vector<float>& tensor = tensors[static_cast<std::size_t>(rank)];
      for (std::size_t i = 0; i < kCount; ++i) {
        tensor[i] = static_cast<float>((i * 37 + static_cast<std::size_t>(rank)) % 16);
      }
      given += sum_of(tensor);
      tickets.push_back(
          world[rank].all_reduce("w", view_of(tensor), view_of(tensor), compressed()));
    }
    for (const Ticket& ticket : tickets) REQUIRE(ticket.wait_for(kLimit).is_ok());
    received += sum_of(tensors[static_cast<std::size_t>(ranks.front())]);
  };
  const auto owed = [&](int rank) { return sum_of(residual_of(world, rank)); };
  const double beta = compressed().compression.beta;
  for (int i = 0; i < 3; ++i) step({0, 1});
  const double before = owed(1);
  REQUIRE(before > 0);
  const Ticket joined = world[1].join();
  for (int i = 0; i < 4; ++i) step({0});
  CHECK(owed(1) < before);
  CHECK(given == Approx(received + (owed(0) + owed(1)) / beta));
  CHECK(world[1].residual("w").step == world[0].residual("w").step);
  world[0].join();
  CHECK(joined.wait_for(kLimit).is_ok());
}

TEST_CASE("ranks with other numbers of steps join again and again, also out of the steady state") {
  constexpr int kSize = 3;
  constexpr int kEpochs = 4;
  SessionWorld world(kSize);
  std::vector<std::string> wrong(kSize);
  test::run_ranks(kSize, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
      const auto steps_of = [epoch](int of) { return 20 + (of + epoch) % kSize; };
      for (int step = 0; step < steps_of(rank); ++step) {
        std::vector<std::vector<float>> tensors(4, std::vector<float>{1, 2});
        std::vector<Ticket> tickets;
        for (std::size_t i = 0; i < tensors.size(); ++i) {
          AllReduceOptions options;
          options.op = ReduceOp::sum;
          const TensorView view = view_of(tensors[i]);
          tickets.push_back(world[rank].all_reduce("t" + std::to_string(i), view, view, options));
        }
        float with_data = 0;
        for (int other = 0; other < kSize; ++other) with_data += step < steps_of(other) ? 1 : 0;
        for (std::size_t i = 0; i < tensors.size(); ++i) {
          const bool is_well = tickets[i].wait_for(kLimit).is_ok() &&
                               tensors[i] == std::vector<float>{with_data, 2 * with_data};
          if (!is_well) wrong[r] += "a sum in step " + std::to_string(step) + "; ";
        }
      }
      const Ticket join = world[rank].join();
      if (!join.wait_for(kLimit).is_ok()) {
        wrong[r] += "join; ";
        return;
      }
      const std::int64_t last = *static_cast<const std::int64_t*>(join.output().data);
      if (steps_of(static_cast<int>(last)) != 22) wrong[r] += "rank " + std::to_string(last) + "; ";
    }
  });
  CHECK(wrong == std::vector<std::string>(kSize));
  CHECK(world[0].stats().steady_leaves > 0);
}

TEST_CASE("a rank that is lost, and a shutdown, end joins") {
  const bool is_loss = GENERATE(true, false);
  SessionWorld world(3);
  const Ticket joined = world[1].join();
  if (is_loss) {
    world.lose(2);
  } else {
    world[0].shutdown();
  }
  const Status status = joined.wait_for(kLimit);
  CHECK(status.code() == (is_loss ? StatusCode::rank_lost : StatusCode::shut_down));
}
