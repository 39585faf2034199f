// The operations that give each rank a part of its own: reduce-scatter and all-to-all.
#include <cstring>
#include <latch>
#include <numeric>
#include <utility>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::SessionWorld;
using test::view_of;

namespace {

// What one rank saw; compared behind the ranks' threads.
struct Outcome {
  Status status;
  Shape shape;
  std::vector<float> values;
  std::vector<std::int64_t> received_splits;
};

Outcome outcome_of(const Ticket& ticket) {
  Outcome outcome;
  outcome.status = ticket.wait();
  const TensorView output = ticket.output();
  outcome.shape = output.shape;
  outcome.received_splits = ticket.received_splits();
  if (output.data != nullptr && output.bytes() > 0 && output.dtype == DataType::float32) {
    outcome.values.resize(static_cast<std::size_t>(output.count()));
    std::memcpy(outcome.values.data(), output.data, static_cast<std::size_t>(output.bytes()));
  }
  return outcome;
}

std::vector<Outcome> on_every_rank(int size, const std::function<Outcome(int)>& body) {
  std::vector<Outcome> outcomes(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) { outcomes[static_cast<std::size_t>(rank)] = body(rank); });
  return outcomes;
}

std::vector<float> rows_from(int rank, std::int64_t rows, std::int64_t columns) {
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  std::iota(values.begin(), values.end(), static_cast<float>(rank * 1000));
  return values;
}

}  // namespace

TEST_CASE("reduce_scatter cuts the first dimension, the first ranks get the rows left over") {
  const int size = GENERATE(1, 2, 3, 4, 7);
  const std::int64_t rows = GENERATE(0, 1, 2, 7, 8, 15);
  CAPTURE(size, rows);
  constexpr std::int64_t kColumns = 3;
  SessionWorld world(size);
  std::vector<std::vector<float>> inputs;
  for (int rank = 0; rank < size; ++rank) inputs.push_back(rows_from(rank, rows, kColumns));
  const auto before = inputs;
  const auto outcomes = on_every_rank(size, [&](int rank) {
    auto& input = inputs[static_cast<std::size_t>(rank)];
    ReduceOptions sum;
    sum.op = ReduceOp::sum;
    return outcome_of(world[rank].reduce_scatter(
        "r", {input.data(), DataType::float32, {rows, kColumns}, {}}, sum));
  });
  CHECK(inputs == before);
  std::size_t next = 0;
  for (int rank = 0; rank < size; ++rank) {
    const Outcome& outcome = outcomes[static_cast<std::size_t>(rank)];
    REQUIRE(outcome.status.is_ok());
    CHECK(outcome.shape == Shape{rows / size + (rank < rows % size ? 1 : 0), kColumns});
    for (const float value : outcome.values) {
      float expected = 0.0f;
      for (const auto& input : before) expected += input[next];
      CHECK(value == expected);
      ++next;
    }
  }
  CHECK(next == before[0].size());
}

TEST_CASE("reduce_scatter averages by default, scales before and after, and takes other ops") {
  const int size = 3;
  SessionWorld world(size);
  const auto reduce = [&](const std::string& name, ReduceOptions options) {
    const auto outcomes = on_every_rank(size, [&](int rank) {
      std::vector<float> mine(3, static_cast<float>(rank + 1));
      return outcome_of(world[rank].reduce_scatter(name, view_of(mine), options));
    });
    for (const Outcome& outcome : outcomes) CHECK(outcome.values == outcomes[0].values);
    return outcomes[0].values;
  };
  ReduceOptions options;
  CHECK(reduce("default", options) == std::vector<float>{2.0f});
  options.prescale = 4.0;
  options.postscale = 0.5;
  CHECK(reduce("scaled", options) == std::vector<float>{4.0f});
  CHECK(reduce("scaled", options) == std::vector<float>{4.0f});
  options = {};
  options.op = ReduceOp::min;
  CHECK(reduce("min", options) == std::vector<float>{1.0f});
  options.op = ReduceOp::max;
  CHECK(reduce("max", options) == std::vector<float>{3.0f});
  options.op = ReduceOp::product;
  CHECK(reduce("product", options) == std::vector<float>{6.0f});
}

TEST_CASE("all_to_all gives each rank its rows and says how many came from whom, call by call") {
  const int size = GENERATE(1, 2, 3, 5);
  CAPTURE(size);
  constexpr std::int64_t kColumns = 2;
  // The first call has equal parts; the others change, some are empty.
  const auto split = [](int call, int from, int to) -> std::int64_t {
    return call == 0 ? 2 : (call * 5 + from * 3 + to * 2) % 4;
  };
  SessionWorld world(size);
  for (int call = 0; call < 4; ++call) {
    const auto outcomes = on_every_rank(size, [&](int rank) {
      std::vector<std::int64_t> splits;
      for (int to = 0; to < size; ++to) splits.push_back(split(call, rank, to));
      const auto rows = std::accumulate(splits.begin(), splits.end(), std::int64_t{0});
      std::vector<float> input = rows_from(rank, rows, kColumns);
      if (call == 0 && rank % 2 == 0) splits.clear();
      return outcome_of(world[rank].all_to_all(
          "x", {input.data(), DataType::float32, {rows, kColumns}, {}}, splits));
    });
    for (int rank = 0; rank < size; ++rank) {
      const Outcome& outcome = outcomes[static_cast<std::size_t>(rank)];
      std::vector<std::int64_t> received;
      std::vector<float> expected;
      for (int from = 0; from < size; ++from) {
        received.push_back(split(call, from, rank));
        std::int64_t before = 0;
        for (int to = 0; to < rank; ++to) before += split(call, from, to);
        for (std::int64_t i = 0; i < received.back() * kColumns; ++i) {
          expected.push_back(static_cast<float>(from * 1000 + before * kColumns + i));
        }
      }
      REQUIRE(outcome.status.is_ok());
      CHECK(outcome.received_splits == received);
      CHECK(outcome.values == expected);
      CHECK(outcome.shape == Shape{std::reduce(received.begin(), received.end()), kColumns});
    }
  }
  CHECK(world[0].stats().tensors_negotiated_from_cache == 3);
}

TEST_CASE("ranks that disagree about a part's operation get a mismatch, and the session goes on") {
  const int size = 3;
  SessionWorld world(size);
  std::vector<float> values(6);
  const auto messages = [&](const std::function<Ticket(int)>& submit) {
    const auto outcomes = on_every_rank(size, [&](int rank) { return outcome_of(submit(rank)); });
    for (const Outcome& outcome : outcomes) {
      CHECK(outcome.status.code() == StatusCode::mismatch);
      CHECK(outcome.status == outcomes[0].status);
    }
    return outcomes[0].status.message();
  };
  CHECK_THAT(
      messages([&](int rank) {
        const std::int64_t columns = rank == 2 ? 1 : 2;
        return world[rank].all_to_all("w", {values.data(), DataType::float32, {3, columns}, {}});
      }),
      Contains("shape differs") && Contains("[any, 2] on ranks 0, 1") &&
          Contains("[any, 1] on rank 2"));
  CHECK_THAT(messages([&](int rank) {
               return world[rank].reduce_scatter(
                   "w", {values.data(), DataType::float32, {rank == 1 ? 6 : 3}, {}});
             }),
             Contains("shape differs") && Contains("[6] on rank 1"));
  CHECK_THAT(messages([&](int rank) {
               return rank == 0 ? world[rank].reduce_scatter("w", view_of(values))
                                : world[rank].all_to_all("w", view_of(values));
             }),
             Contains("reduce_scatter on rank 0; all_to_all on ranks 1, 2"));
  CHECK_THAT(messages([&](int rank) {
               ReduceOptions options;
               options.op = rank == 0 ? ReduceOp::max : ReduceOp::sum;
               return world[rank].reduce_scatter("w", view_of(values), options);
             }),
             Contains("op differs"));
  const auto outcomes = on_every_rank(
      size, [&](int rank) { return outcome_of(world[rank].reduce_scatter("w", view_of(values))); });
  for (const Outcome& outcome : outcomes) CHECK(outcome.status.is_ok());
}

TEST_CASE("wrong splits are refused at the call and leave the name free") {
  SessionWorld world(1);
  std::vector<float> values(3);
  CHECK_THROWS_WITH(world[0].all_to_all("w", view_of(values), {2}), Contains("not to the 3 rows"));
  const Ticket ticket = world[0].all_to_all("w", view_of(values), {3});
  CHECK(ticket.wait().is_ok());
  CHECK(ticket.received_splits() == std::vector<std::int64_t>{3});
}

namespace {

// A session's, whose thread stands still from its first look at it, before it has taken anything
// from the queue, until all have been submitted.
class HeldChannel final : public ControlChannel {
 public:
  HeldChannel(std::unique_ptr<ControlChannel> inner, std::latch& are_held, std::latch& are_in)
      : inner_(std::move(inner)), are_held_(are_held), are_in_(are_in) {}
  void send(int peer, ControlMessage message) override { inner_->send(peer, std::move(message)); }
  std::vector<ControlEvent> poll() override {
    if (!std::exchange(is_held_, true)) are_held_.count_down();
    are_in_.wait();
    return inner_->poll();
  }
  int descriptor() const noexcept override { return inner_->descriptor(); }
  TransportCounters counters() const noexcept override { return inner_->counters(); }
  void close() override { inner_->close(); }

 private:
  const std::unique_ptr<ControlChannel> inner_;
  std::latch& are_held_;
  std::latch& are_in_;
  bool is_held_ = false;
};

// 15 of each operation, with extents of every rank's own where they may have some.
std::vector<Ticket> submit_many(Session& session, int rank, int size,
                                std::vector<std::vector<float>>& memory) {
  constexpr int kEach = 15;
  std::vector<Ticket> tickets;
  memory.reserve(4 * kEach);
  const auto view = [&](std::int64_t rows, std::int64_t columns) {
    memory.push_back(rows_from(rank + static_cast<int>(memory.size()), rows, columns));
    return TensorView{memory.back().data(), DataType::float32, {rows, columns}, {}};
  };
  for (int i = 0; i < kEach; ++i) {
    const std::string number = std::to_string(i);
    tickets.push_back(session.broadcast("b" + number, view(i, 3), i % 2 == 0 ? 0 : size - 1));
    tickets.push_back(session.all_gather("g" + number, view((i + rank) % 4, 2)));
    ReduceOptions sum;
    sum.op = i % 3 == 0 ? ReduceOp::average : ReduceOp::sum;
    sum.prescale = i;
    tickets.push_back(session.reduce_scatter("r" + number, view(i, 2), sum));
    std::vector<std::int64_t> splits;
    for (int to = 0; to < size; ++to) splits.push_back((i * rank + to) % 3);
    const std::int64_t rows = std::accumulate(splits.begin(), splits.end(), std::int64_t{0});
    tickets.push_back(session.all_to_all("a" + number, view(rows, 2), splits));
  }
  return tickets;
}

}  // namespace

TEST_CASE("operations of one kind that come together are one batch, each with its own result") {
  const int size = GENERATE(1, 2, 3, 5);
  CAPTURE(size);
  const auto run = [size](std::int64_t fusion_threshold_bytes, std::int64_t& batches) {
    Config config;
    config.fusion_threshold_bytes = fusion_threshold_bytes;
    std::latch are_held(size);
    std::latch are_in(size);
    SessionWorld world(size, config, [&](int, SessionParts& parts) {
      parts.channel = std::make_unique<HeldChannel>(std::move(parts.channel), are_held, are_in);
    });
    std::vector<std::vector<Outcome>> outcomes(static_cast<std::size_t>(size));
    std::vector<std::vector<std::vector<float>>> memory(static_cast<std::size_t>(size));
    test::run_ranks(size, [&](int rank) {
      const auto r = static_cast<std::size_t>(rank);
      are_held.wait();
      const std::vector<Ticket> tickets = submit_many(world[rank], rank, size, memory[r]);
      are_in.count_down();
      for (const Ticket& ticket : tickets) outcomes[r].push_back(outcome_of(ticket));
    });
    batches = world[0].stats().batches_executed;
    return std::make_pair(outcomes, memory);
  };
  std::int64_t single_batches = 0;
  std::int64_t fused_batches = 0;
  const auto [alone, alone_memory] = run(0, single_batches);
  const auto [fused, fused_memory] = run(128 << 20, fused_batches);
  for (std::size_t rank = 0; rank < alone.size(); ++rank) {
    CHECK(fused_memory[rank] == alone_memory[rank]);
    for (std::size_t i = 0; i < alone[rank].size(); ++i) {
      CAPTURE(rank, i);
      REQUIRE(alone[rank][i].status.is_ok());
      REQUIRE(fused[rank][i].status.is_ok());
      CHECK(fused[rank][i].shape == alone[rank][i].shape);
      CHECK(fused[rank][i].values == alone[rank][i].values);
      CHECK(fused[rank][i].received_splits == alone[rank][i].received_splits);
    }
  }
  CHECK(single_batches >= 40);                  // Empty tensors share one all the same.
  CHECK(fused_batches == (size == 1 ? 4 : 5));  // Broadcasts have two roots, if there are two.
}
