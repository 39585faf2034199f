#include <atomic>
#include <thread>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::SessionWorld;
using test::view_of;

namespace {

// What ends the session may come before the submit, or behind it.
Status reduce(Session& session, const std::string& name, std::size_t count,
              const AllReduceOptions& options = {}) {
  std::vector<float> values(count, 1.0f);
  try {
    return session.all_reduce(name, view_of(values), view_of(values), options).wait();
  } catch (const Error& error) {
    return error.status();
  }
}

// Data that never moves: the rank on the other side is stopped, or swaps.
class HungTransport final : public Transport {
 public:
  HungTransport(int rank, std::atomic<int>& posts) : rank_(rank), posts_(posts) {}
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return 2; }
  std::string_view name() const noexcept override { return "hung"; }
  TransportRequest post_send(std::span<const std::byte>, int, int) override { return {1}; }
  TransportRequest post_receive(std::span<std::byte>, int, int) override {
    ++posts_;
    return {2};
  }
  bool test(TransportRequest& request) override { return request.is_null(); }
  void cancel_all() noexcept override {}
  TransportCounters counters() const noexcept override { return {}; }

 private:
  const int rank_;
  std::atomic<int>& posts_;
};

}  // namespace

TEST_CASE("a shutdown ends in time on every rank while a collective hangs") {
  LoopbackControlWorld control(2);
  std::atomic<int> posts{0};
  std::vector<std::unique_ptr<Session>> sessions;
  for (int rank = 0; rank < 2; ++rank) {
    SessionParts parts;
    parts.topology.rank = rank;
    parts.topology.size = 2;
    parts.transport = std::make_unique<HungTransport>(rank, posts);
    parts.collectives = std::make_unique<MessageCollectives>(*parts.transport);
    parts.channel = control.make_channel(rank);
    sessions.push_back(std::make_unique<Session>(std::make_unique<SessionImpl>(std::move(parts))));
  }
  std::vector<float> values(8);
  std::vector<Ticket> tickets;
  for (const auto& session : sessions) {
    tickets.push_back(session->all_reduce("w", view_of(values), view_of(values)));
  }
  while (posts < 2) std::this_thread::yield();  // Both are in the collective.
  const int leaver = GENERATE(0, 1);
  const TimePoint begin = Clock::now();
  sessions[static_cast<std::size_t>(leaver)]->shutdown();
  for (const Ticket& ticket : tickets) {
    CHECK(ticket.wait_for(std::chrono::seconds(20)).code() == StatusCode::shut_down);
  }
  CHECK(Clock::now() - begin < std::chrono::seconds(10));
}

TEST_CASE("a shutdown that is not answered ends the session by itself, in time") {
  LoopbackControlWorld control(2);
  const auto silent = control.make_channel(0);
  std::atomic<int> posts{0};
  SessionParts parts;
  parts.topology.rank = 1;
  parts.topology.size = 2;
  parts.transport = std::make_unique<HungTransport>(1, posts);
  parts.collectives = std::make_unique<MessageCollectives>(*parts.transport);
  parts.channel = control.make_channel(1);
  Session session(std::make_unique<SessionImpl>(std::move(parts)));
  std::vector<float> values(8);
  const Ticket ticket = session.all_reduce("w", view_of(values), view_of(values));
  const TimePoint begin = Clock::now();
  session.shutdown();
  CHECK(ticket.wait_for(std::chrono::seconds(20)).code() == StatusCode::shut_down);
  CHECK(Clock::now() - begin < std::chrono::seconds(10));
}

TEST_CASE("a mismatch fails the tensor on every rank with both values, and the session goes on") {
  const int size = 3;
  SessionWorld world(size);
  std::vector<Status> bad(static_cast<std::size_t>(size));
  std::vector<Status> good(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    bad[r] = reduce(world[rank], "w", rank == 1 ? 5 : 4);
    good[r] = reduce(world[rank], "w", 4);
  });
  for (const Status& status : bad) {
    CHECK(status.code() == StatusCode::mismatch);
    CHECK_THAT(status.message(), Contains("w") && Contains("1") && Contains("5") && Contains("4"));
  }
  for (const Status& status : good) CHECK(status.is_ok());
}

TEST_CASE("ranks that disagree about compression get a mismatch") {
  SessionWorld world(2);
  std::vector<Status> statuses(2);
  test::run_ranks(2, [&](int rank) {
    AllReduceOptions options;
    if (rank == 1) options.compression.mode = CompressionMode::cyclic;
    statuses[static_cast<std::size_t>(rank)] = reduce(world[rank], "w", 8, options);
  });
  for (const Status& status : statuses) CHECK(status.code() == StatusCode::mismatch);
}

TEST_CASE("shutdown with tensors in flight fails them on every rank, and later submits too") {
  SessionWorld world(3);
  std::vector<Status> statuses(3);
  test::run_ranks(3, [&](int rank) {
    if (rank == 2) {
      world[2].shutdown();
      return;
    }
    statuses[static_cast<std::size_t>(rank)] = reduce(world[rank], "w", 4);
  });
  for (int rank = 0; rank < 2; ++rank) {
    CHECK(statuses[static_cast<std::size_t>(rank)].code() == StatusCode::shut_down);
    CHECK_THAT(statuses[static_cast<std::size_t>(rank)].message(), Contains("rank 2"));
    CHECK(world[rank].status().code() == StatusCode::shut_down);
    std::vector<float> values(1);
    CHECK_THROWS_WITH(world[rank].all_reduce("later", view_of(values), view_of(values)),
                      Contains("rank 2"));
  }
}

TEST_CASE("a tensor that all ranks agreed on before a shutdown completes well") {
  for (int round = 0; round < 20; ++round) {
    SessionWorld world(2);
    std::vector<Status> statuses(2);
    test::run_ranks(2, [&](int rank) {
      std::vector<float> values(1000, 1.0f);
      const Ticket ticket = world[rank].all_reduce("w", view_of(values), view_of(values));
      statuses[static_cast<std::size_t>(rank)] = ticket.wait();
      world[rank].shutdown();
    });
    for (const Status& status : statuses) REQUIRE(status.is_ok());
  }
}

TEST_CASE("a lost rank fails every pending ticket with its number, and the session stays failed") {
  const int lost = GENERATE(0, 1, 3);
  SessionWorld world(4);
  std::vector<Status> statuses(4);
  test::run_ranks(4, [&](int rank) {
    if (rank == lost) {
      world.lose(rank);
      return;
    }
    statuses[static_cast<std::size_t>(rank)] = reduce(world[rank], "w", 100);
  });
  for (int rank = 0; rank < 4; ++rank) {
    if (rank == lost) continue;
    const Status& status = statuses[static_cast<std::size_t>(rank)];
    CHECK(status.code() == StatusCode::rank_lost);
    CHECK_THAT(status.message(), Contains("rank " + std::to_string(lost)));
    CHECK(world[rank].status() == status);
  }
}

TEST_CASE("a rank that dies amid steps never leaves the others hanging") {
  const int size = 3;
  SessionWorld world(size);
  std::vector<Status> statuses(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    for (int step = 0; step < 1000; ++step) {
      if (rank == 1 && step == 30) {
        world.lose(1);
        return;
      }
      Status& status = statuses[static_cast<std::size_t>(rank)];
      status = reduce(world[rank], "w", 50'000);
      if (!status.is_ok()) return;
    }
  });
  CHECK(statuses[0].code() == StatusCode::rank_lost);
  CHECK(statuses[2].code() == StatusCode::rank_lost);
  CHECK_THAT(statuses[0].message(), Contains("rank 1"));
  CHECK_THAT(statuses[2].message(), Contains("rank 1"));
}

TEST_CASE("past the stall shutdown time every rank gets an error that names who is missing") {
  Config config;
  config.stall_check_time_s = 0.05;
  config.stall_shutdown_time_s = 0.2;
  SessionWorld world(3, config);
  std::vector<Status> statuses(3);
  test::run_ranks(3, [&](int rank) {
    if (rank == 1) return;  // Never submits.
    statuses[static_cast<std::size_t>(rank)] = reduce(world[rank], "late", 4);
  });
  for (const int rank : {0, 2}) {
    const Status& status = statuses[static_cast<std::size_t>(rank)];
    CHECK(status.code() == StatusCode::timed_out);
    CHECK_THAT(status.message(), Contains("late") && Contains("1"));
  }
}

TEST_CASE("a late rank delays only its own tensor") {
  SessionWorld world(2);
  std::vector<float> a{1.0f};
  const Ticket late = world[0].all_reduce("late", view_of(a), view_of(a));
  test::run_ranks(2, [&](int rank) {
    for (int step = 0; step < 10; ++step) {
      if (!reduce(world[rank], "other", 10).is_ok()) throw std::runtime_error("other failed");
    }
  });
  CHECK_FALSE(late.is_ready());
  std::vector<float> b{3.0f};
  CHECK(world[1].all_reduce("late", view_of(b), view_of(b)).wait().is_ok());
  CHECK(late.wait().is_ok());
  CHECK(a[0] == 2.0f);
}
