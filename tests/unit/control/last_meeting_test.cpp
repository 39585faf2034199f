#include "runtime/control/last_meeting.hpp"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "runtime/control/loopback_channel.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

constexpr auto kLong = std::chrono::seconds(60);

struct Outcome {
  Status status;
  bool had_all_come = false;
};

// A rank that has not met closes its channel, which its neighbours hear of.
std::vector<Outcome> meet_all(int size, int absent, Clock::duration limit,
                              const std::function<void(LoopbackControlWorld&)>& before = {}) {
  LoopbackControlWorld world(size);
  std::vector<std::unique_ptr<ControlChannel>> channels;
  for (int rank = 0; rank < size; ++rank) channels.push_back(world.make_channel(rank));
  if (before) before(world);
  std::vector<Outcome> outcomes(static_cast<std::size_t>(size));
  std::atomic<int> come{0};
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (rank == absent) return;
    ++come;
    try {
      LastMeeting(rank, size).meet(*channels[r], {Deadline::after(limit)});
    } catch (const Error& error) {
      outcomes[r].status = error.status();
      world.lose(rank);
    }
    outcomes[r].had_all_come = come == size;
  });
  return outcomes;
}

}  // namespace

TEST_CASE("ranks meet when all have come, in a star and in a tree") {
  for (const int size : {1, 2, 3, 16, 17, 40}) {
    for (const Outcome& outcome : meet_all(size, -1, kLong)) {
      CHECK(outcome.status.is_ok());
      CHECK(outcome.had_all_come);
    }
  }
}

TEST_CASE("where a rank is lost none meets, and all hear of it at once") {
  const int size = GENERATE(3, 40);
  const int lost = GENERATE_COPY(0, 1, size - 1);
  const TimePoint begin = Clock::now();
  const auto outcomes =
      meet_all(size, lost, kLong, [&](LoopbackControlWorld& world) { world.lose(lost); });
  CHECK(Clock::now() - begin < kLong / 2);
  for (int rank = 0; rank < size; ++rank) {
    if (rank == lost) continue;
    CHECK(outcomes[static_cast<std::size_t>(rank)].status.code() == StatusCode::rank_lost);
  }
}

TEST_CASE("where a rank does not come none meets, at the deadline") {
  const int absent = GENERATE(0, 1, 19);
  const auto outcomes = meet_all(20, absent, std::chrono::milliseconds(50));
  for (int rank = 0; rank < 20; ++rank) {
    const Status& status = outcomes[static_cast<std::size_t>(rank)].status;
    if (rank == absent) continue;
    CHECK((status.code() == StatusCode::timed_out || status.code() == StatusCode::rank_lost));
  }
}

TEST_CASE("a parent's word counts also where it has left since, and a child's does not") {
  LoopbackControlWorld world(2);
  const auto parent = world.make_channel(0);
  const auto child = world.make_channel(1);
  const WaitContext wait{Deadline::after(kLong)};
  SECTION("parent") {
    parent->send(1, {});
    world.lose(0);
    CHECK_NOTHROW(LastMeeting(1, 2).meet(*child, wait));
  }
  SECTION("child") {
    child->send(0, {});
    world.lose(1);
    CHECK_NOTHROW(LastMeeting(0, 2).meet(*parent, wait));
  }
}

TEST_CASE("what was heard while the session ran counts, and the negotiation's messages do not") {
  LoopbackControlWorld world(3);
  const auto channel = world.make_channel(0);
  LastMeeting meeting(0, 3);
  meeting.take(ControlReceived{1, {}});
  meeting.take(ControlReceived{2, "requests"});
  const auto meet = [&] {
    meeting.meet(*channel, {Deadline::after(std::chrono::milliseconds(1))});
  };
  CHECK_THROWS_WITH(meet(), Contains("deadline"));
  SECTION("an end") {
    meeting.take(ControlReceived{2, {}});
    meet();
    CHECK(channel->counters().messages_sent == 2);
  }
  SECTION("a loss") {
    meeting.take(ControlPeerLost{2, "connection closed"});
    CHECK_THROWS_WITH(meet(), Contains("rank 2") && Contains("connection closed"));
  }
}
