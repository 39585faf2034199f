#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr auto kLimit = std::chrono::seconds(20);

std::string member_name(std::size_t place) { return "g." + std::to_string(place); }

// In place.
std::vector<GroupMember> members_of(std::vector<std::vector<float>>& tensors) {
  std::vector<GroupMember> members;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    members.push_back({member_name(i), view_of(tensors[i]), view_of(tensors[i])});
  }
  return members;
}

AllReduceOptions sum() {
  AllReduceOptions options;
  options.op = ReduceOp::sum;
  return options;
}

}  // namespace

TEST_CASE("a group sums each member, also where another rank submits them one by one") {
  const int size = GENERATE(1, 2, 4);
  constexpr std::size_t kTensors = 160;
  SessionWorld world(size);
  std::vector<int> wrong(static_cast<std::size_t>(size));
  std::vector<SessionStats> stats(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    for (int step = 0; step < 6; ++step) {
      std::vector<std::vector<float>> tensors;
      for (std::size_t i = 0; i < kTensors; ++i) tensors.emplace_back(i % 7, 1.0f);
      std::vector<Ticket> tickets;
      if (rank == 0) {
        tickets.push_back(world[rank].all_reduce_group(members_of(tensors), sum()));
      } else {
        for (GroupMember& member : members_of(tensors)) {
          tickets.push_back(
              world[rank].all_reduce(member.name, member.input, member.output, sum()));
        }
      }
      for (const Ticket& ticket : tickets) {
        if (!ticket.wait_for(kLimit).is_ok()) ++wrong[static_cast<std::size_t>(rank)];
      }
      for (std::size_t i = 0; i < kTensors; ++i) {
        if (tensors[i] != std::vector<float>(i % 7, static_cast<float>(size))) {
          ++wrong[static_cast<std::size_t>(rank)];
        }
      }
    }
    stats[static_cast<std::size_t>(rank)] = world[rank].stats();
  });
  for (std::size_t r = 0; r < wrong.size(); ++r) {
    CHECK(wrong[r] == 0);
    CHECK(stats[r].tensors_completed == 6 * kTensors);
  }
}

TEST_CASE("a group completes when its last member does") {
  SessionWorld world(2);
  std::vector<std::vector<std::vector<float>>> tensors(2, {{1.0f}, {2.0f}});
  const Ticket group = world[0].all_reduce_group(members_of(tensors[0]), sum());
  auto members = members_of(tensors[1]);
  const Ticket first =
      world[1].all_reduce(members[0].name, members[0].input, members[0].output, sum());
  CHECK(first.wait_for(kLimit).is_ok());
  CHECK_FALSE(group.is_ready());
  const Ticket second =
      world[1].all_reduce(members[1].name, members[1].input, members[1].output, sum());
  CHECK(group.wait_for(kLimit).is_ok());
  CHECK(second.wait_for(kLimit).is_ok());
  CHECK(tensors[0] == std::vector<std::vector<float>>{{2.0f}, {4.0f}});
}

TEST_CASE("a member that differs fails its group; the other members are reduced") {
  SessionWorld world(2);
  std::vector<std::vector<std::vector<float>>> tensors(2, {{1.0f}, {1.0f}, {1.0f}});
  tensors[1][1] = {1.0f, 1.0f};
  for (int step = 0; step < 2; ++step) {
    const Ticket groups[] = {world[0].all_reduce_group(members_of(tensors[0]), sum()),
                             world[1].all_reduce_group(members_of(tensors[1]), sum())};
    for (const Ticket& group : groups) {
      const Status status = group.wait_for(kLimit);
      CHECK(status.code() == StatusCode::mismatch);
      CHECK_THAT(status.message(), Contains("g.1"));
    }
  }
  CHECK(tensors[0] == std::vector<std::vector<float>>{{4.0f}, {1.0f}, {4.0f}});
}

TEST_CASE("a member's own options go before the group's") {
  SessionWorld world(2);
  std::vector<std::vector<std::vector<float>>> tensors(2, {{1.0f}, {2.0f}});
  std::vector<Ticket> groups;
  for (int rank = 0; rank < 2; ++rank) {
    auto members = members_of(tensors[static_cast<std::size_t>(rank)]);
    members[1].options = sum();
    members[1].options->postscale = 0.25;
    groups.push_back(world[rank].all_reduce_group(members, sum()));
  }
  for (const Ticket& group : groups) CHECK(group.wait_for(kLimit).is_ok());
  CHECK(tensors[0] == std::vector<std::vector<float>>{{2.0f}, {1.0f}});
}

TEST_CASE("a group with a wrong member submits nothing") {
  SessionWorld world(1);
  std::vector<std::vector<float>> tensors{{1.0f}, {2.0f}, {3.0f}};
  auto members = members_of(tensors);
  SECTION("no data") {
    members[2].input.data = nullptr;
    CHECK_THROWS_WITH(world[0].all_reduce_group(members), Contains("g.2"));
  }
  SECTION("options of its own that are wrong") {
    members[2].options = sum();
    members[2].options->compression.rate = -1;
    members[2].options->compression.mode = CompressionMode::cyclic;
    CHECK_THROWS_WITH(world[0].all_reduce_group(members), Contains("g.2") && Contains("rate"));
  }
  SECTION("a name twice") {
    members[2].name = members[0].name;
    CHECK_THROWS_WITH(world[0].all_reduce_group(members), Contains("g.0") && Contains("in flight"));
  }
  CHECK(world[0].all_reduce_group(members_of(tensors)).wait_for(kLimit).is_ok());
  CHECK(world[0].stats().tensors_completed == 3);
}

TEST_CASE("groups of all-gathers and reduce-scatters have a ticket for each member") {
  SessionWorld world(2);
  std::vector<std::vector<float>> tensors{{1.0f, 2.0f}, {3.0f, 4.0f, 5.0f, 6.0f}};
  std::vector<NamedInput> inputs{{"one", view_of(tensors[0])}, {"two", view_of(tensors[1])}};
  std::vector<Ticket> tickets[2];
  for (int rank = 0; rank < 2; ++rank) {
    tickets[rank] = world[rank].all_gather_group(inputs);
    for (Ticket& ticket : world[rank].reduce_scatter_group(
             {{"three", view_of(tensors[0])}, {"four", view_of(tensors[1])}}, sum())) {
      tickets[rank].push_back(std::move(ticket));
    }
  }
  const std::vector<std::vector<float>> want{
      {1, 2, 1, 2}, {3, 4, 5, 6, 3, 4, 5, 6}, {4}, {10, 12}};  // What rank 1 gets.
  for (std::size_t i = 0; i < want.size(); ++i) {
    CHECK(tickets[0][i].wait_for(kLimit).is_ok());
    REQUIRE(tickets[1][i].wait_for(kLimit).is_ok());
    const TensorView output = tickets[1][i].output();
    const auto* values = static_cast<const float*>(output.data);
    CHECK(std::vector<float>(values, values + output.count()) == want[i]);
  }
}

TEST_CASE(
    "of a group of gathers, scatters or broadcasts with a wrong member nothing is submitted") {
  SessionWorld world(1);
  std::vector<float> values{1.0f};
  const TensorView good = view_of(values);
  TensorView bad = good;
  bad.data = nullptr;
  const Ticket first = world[0].all_gather("a", good);
  CHECK(first.wait_for(kLimit).is_ok());
  CHECK_THROWS_WITH(world[0].all_gather_group({{"a", good}, {"b", bad}}), Contains("b"));
  CHECK_THROWS_WITH(world[0].all_gather_group({{"a", good}, {"b", good}, {"a", good}}),
                    Contains("a") && Contains("in flight"));
  CHECK_THROWS_WITH(world[0].reduce_scatter_group({{"a", good}, {"b", bad}}, sum()), Contains("b"));
  CHECK_THROWS_WITH(world[0].reduce_scatter_group({{"b", good}, {"b", good}}, sum()),
                    Contains("b") && Contains("in flight"));
  CHECK_THROWS_WITH(world[0].broadcast_group({{"a", good}, {"b", bad}}, 0), Contains("b"));
  CHECK(world[0].all_gather_group({}).empty());
  CHECK(world[0].stats().tensors_completed == 1);
}

TEST_CASE("a group without members is complete") {
  SessionWorld world(1);
  CHECK(world[0].all_reduce_group({}).is_ready());
  CHECK(world[0].broadcast_group({}, 0).is_ready());
  CHECK(world[0].all_reduce_group({}).wait().is_ok());
}

TEST_CASE("the session's end completes a group that others never submitted") {
  SessionWorld world(2);
  std::vector<std::vector<float>> tensors{{1.0f}, {2.0f}};
  const Ticket group = world[0].all_reduce_group(members_of(tensors), sum());
  world[1].shutdown();
  CHECK(group.wait_for(kLimit).code() == StatusCode::shut_down);
  CHECK_THROWS_AS(world[0].all_reduce_group(members_of(tensors)), Error);
}
