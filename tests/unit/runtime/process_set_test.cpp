#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"
#include "tests/support/thread_bootstrap.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

constexpr int kSize = 4;

Config quick() {
  Config config;
  config.tune = "off";
  return config;
}

// On a rank's thread, where Catch's own checks are not safe; run_ranks() passes it on.
void expect(bool is_so, const char* what) {
  if (!is_so) throw std::runtime_error(what);
}

// The sum over the session's ranks of what each gives, under one name.
float sum_over(Session& session, float mine) {
  std::vector<float> values(1000, mine);
  AllReduceOptions options;
  options.op = ReduceOp::sum;
  expect(session.all_reduce("w", view_of(values), view_of(values), options).wait().is_ok(), "w");
  return values[999];
}

}  // namespace

TEST_CASE("a process set sums over its ranks, whatever waits in the session and in other sets") {
  SessionWorld world(kSize, quick());
  std::vector<float> sums(kSize);
  std::vector<Topology> topologies(kSize);
  run_ranks(kSize, [&](int rank) {
    const auto even = world[rank].make_process_set({0, 2});
    const auto odd = world[rank].make_process_set({3, 1});
    expect((even != nullptr) == (rank % 2 == 0), "(even != nullptr) == (rank % 2 == 0)");
    expect((odd != nullptr) == (rank % 2 == 1), "(odd != nullptr) == (rank % 2 == 1)");
    std::vector<float> late(10);
    const auto submit_late = [&] {
      return world[rank].all_reduce("late", view_of(late), view_of(late));
    };
    std::optional<Ticket> waiting;
    if (rank != 3) waiting = submit_late();
    Session& mine = rank % 2 == 0 ? *even : *odd;
    topologies[static_cast<std::size_t>(rank)] = mine.topology();
    for (int step = 0; step < 5; ++step) {
      sums[static_cast<std::size_t>(rank)] = sum_over(mine, static_cast<float>(1 << rank));
    }
    if (rank == 3) waiting = submit_late();
    expect(waiting->wait().is_ok(), "waiting->wait().is_ok()");
  });
  CHECK(sums == std::vector<float>{5, 10, 5, 10});
  // In the order of the ranks that were given.
  CHECK(topologies[3].rank == 0);
  CHECK(topologies[1].rank == 1);
  CHECK(topologies[1].size == 2);
}

TEST_CASE("sets of one rank and of all ranks work, and end without the session") {
  SessionWorld world(kSize, quick());
  std::vector<float> sums(kSize);
  run_ranks(kSize, [&](int rank) {
    for (int round = 0; round < 2; ++round) {
      auto alone = world[rank].make_process_set({1});
      auto all = world[rank].make_process_set({3, 2, 1, 0});
      expect((alone != nullptr) == (rank == 1), "(alone != nullptr) == (rank == 1)");
      if (alone != nullptr) expect(sum_over(*alone, 7) == 7, "sum_over(*alone, 7) == 7");
      expect(sum_over(*all, 1) == kSize, "sum_over(*all, 1) == kSize");
    }
    sums[static_cast<std::size_t>(rank)] = sum_over(world[rank], 1);
  });
  CHECK(sums == std::vector<float>(kSize, kSize));
}

TEST_CASE("ranks that give different sets get one error, and the session goes on") {
  SessionWorld world(kSize, quick());
  std::vector<std::string> errors(kSize);
  run_ranks(kSize, [&](int rank) {
    try {
      world[rank].make_process_set(rank == 2 ? std::vector{0, 2} : std::vector{0, 1});
    } catch (const Error& error) {
      errors[static_cast<std::size_t>(rank)] = error.what();
    }
    expect(sum_over(world[rank], 1) == kSize, "sum_over(world[rank], 1) == kSize");
  });
  for (const std::string& error : errors) {
    CHECK_THAT(error, Catch::Contains("[0, 1] on rank 0, [0, 2] on rank 2"));
  }
}

TEST_CASE("a process set of ranks that are not there is refused at the call") {
  SessionWorld world(1, quick());
  for (const auto& [ranks, said] :
       {std::pair{std::vector<int>{}, "one rank or more"}, std::pair{std::vector{0, 1}, "rank 1"},
        std::pair{std::vector{-1}, "rank -1"}, std::pair{std::vector{0, 0}, "twice"}}) {
    CHECK_THROWS_WITH(world[0].make_process_set(ranks), Catch::Contains(said));
  }
}

TEST_CASE("where a rank cannot make its part every rank hears why, also those outside the set") {
  Config config = quick();
  SessionWorld world(kSize, config, [](int rank, SessionParts& parts) {
    if (rank == 1) parts.config.fusion_threshold_bytes /= 2;
  });
  std::vector<std::string> errors(kSize);
  run_ranks(kSize, [&](int rank) {
    try {
      world[rank].make_process_set({0, 1});
    } catch (const Error& error) {
      errors[static_cast<std::size_t>(rank)] = error.what();
    }
  });
  for (const std::string& error : errors) {
    CHECK_THAT(error, Catch::Contains("SCALECOM_FUSION_THRESHOLD"));
  }
}

TEST_CASE(
    "ranks that know each other otherwise make a set alone, and its errors say whose they are") {
  SessionWorld world(kSize, quick());
  Exchange blobs(2);
  std::string message;
  run_ranks(kSize, [&](int rank) {
    if (rank != 1 && rank != 3) return;
    ThreadBootstrap meeting(blobs, rank / 2, 2);
    const auto set =
        world[rank].connect_process_set({1, 3}, [&](const std::string& mine, double limit_s) {
          return meeting.exchange(mine, Bootstrap::Limit(limit_s));
        });
    expect(sum_over(*set, 1) == 2, "sum_over(*set, 1) == 2");
    std::vector<float> values(rank == 1 ? 4 : 5);
    const Status status = set->all_reduce("w2", view_of(values), view_of(values)).wait();
    if (rank == 3) message = status.message();
  });
  CHECK_THAT(message, Catch::Contains("process set of ranks [1, 3]") && Catch::Contains("w2"));
  CHECK_THROWS_WITH(world[0].connect_process_set({1, 3}, {}), Catch::Contains("not one of"));
}

TEST_CASE("texts of an exchange that no rank of this version gave are an error of scalecom's") {
  SessionWorld world(2, quick());
  for (const auto& [text, said] :
       {std::pair{"", "what a rank says of itself cannot be read"},
        std::pair{"not JSON", "what a rank says of itself cannot be read"},
        std::pair{R"({"facts": ""})", "what a rank says of itself cannot be read"},
        std::pair{R"({"version": "99"})", "runs scalecom 99"}}) {
    const auto exchange = [&, &text = text](const std::string&, double) {
      return std::vector<std::string>(2, text);
    };
    std::string message;
    try {
      world[0].connect_process_set({0, 1}, exchange);
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK_THAT(message, Catch::Contains(said));
  }
}
