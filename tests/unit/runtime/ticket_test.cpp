#include <atomic>
#include <chrono>
#include <future>
#include <vector>

#include "runtime/ticket_state.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr auto kLimit = std::chrono::seconds(60);

}  // namespace

TEST_CASE("a callback is called once, when the last member has completed, or else at once") {
  const auto state = std::make_shared<TicketState>(nullptr, 2);
  const Ticket ticket(state);
  std::vector<int> calls;
  ticket.on_complete([&] { calls.push_back(1); });
  ticket.on_complete([&] { calls.push_back(2); });
  state->complete(Status());
  CHECK(calls.empty());
  state->complete(Status(StatusCode::mismatch, "they differ"));
  CHECK(calls == std::vector<int>{1, 2});
  ticket.on_complete(
      [&] { calls.push_back(ticket.wait().code() == StatusCode::mismatch ? 3 : -3); });
  CHECK(calls == std::vector<int>{1, 2, 3});
}

TEST_CASE("a callback may give up the last reference to its ticket") {
  auto state = std::make_shared<TicketState>(nullptr);
  const std::weak_ptr<TicketState> watched = state;
  bool was_called = false;
  auto* kept = new Ticket(state);
  kept->on_complete([&] {
    was_called = true;
    delete kept;
  });
  state->complete(Status());
  state.reset();
  CHECK(was_called);
  CHECK(watched.expired());
}

TEST_CASE("callbacks come without a thread that waits, and may submit the next operation") {
  const int size = GENERATE(1, 2, 3);
  constexpr int kSteps = 20;
  std::vector<std::vector<float>> values(static_cast<std::size_t>(size), {1.0f, 2.0f});
  std::vector<std::promise<bool>> ends(static_cast<std::size_t>(size));
  std::function<void(int, int)> submit;
  SessionWorld world(size);  // Its end is the end of the callbacks.
  submit = [&](int rank, int step) {
    auto& mine = values[static_cast<std::size_t>(rank)];
    auto& end = ends[static_cast<std::size_t>(rank)];
    if (step == kSteps) return end.set_value(true);
    const Ticket ticket =
        world[rank].all_reduce("a", view_of(mine), view_of(mine), {{ReduceOp::average}, {}, 0});
    ticket.on_complete([&submit, &end, ticket, rank, step] {
      if (!ticket.wait().is_ok()) return end.set_value(false);
      submit(rank, step + 1);
    });
  };
  for (int rank = 0; rank < size; ++rank) submit(rank, 0);
  for (int rank = 0; rank < size; ++rank) {
    auto result = ends[static_cast<std::size_t>(rank)].get_future();
    REQUIRE(result.wait_for(kLimit) == std::future_status::ready);
    CHECK(result.get());
    CHECK(values[static_cast<std::size_t>(rank)] == std::vector<float>{1.0f, 2.0f});
  }
}

TEST_CASE("a callback is called with the error when its session ends") {
  std::vector<float> values(3);
  std::promise<StatusCode> outcome;
  SessionWorld world(2);
  const Ticket ticket = world[0].all_reduce("alone", view_of(values), view_of(values), {});
  ticket.on_complete([&outcome, ticket] { outcome.set_value(ticket.wait().code()); });
  test::run_ranks(2, [&](int rank) { world[rank].shutdown(); });
  auto result = outcome.get_future();
  REQUIRE(result.wait_for(kLimit) == std::future_status::ready);
  CHECK(result.get() == StatusCode::shut_down);
}
