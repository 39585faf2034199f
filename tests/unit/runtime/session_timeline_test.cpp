// What sessions tell their timelines.
#include <filesystem>
#include <set>
#include <thread>

#include "base/deadline.hpp"
#include "base/error.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"
#include "tests/support/temporary_folder.hpp"
#include "tests/support/timeline_file.hpp"

using namespace scalecom;
using Catch::Contains;
using test::expect_ok;
using test::ReadTimeline;
using test::SessionWorld;
using test::view_of;
using Names = std::vector<std::string>;

namespace {

void reduce(Session& session, const std::string& name, const AllReduceOptions& options = {},
            std::size_t count = 1000) {
  std::vector<float> values(count, 1.0f);
  expect_ok(session.all_reduce(name, view_of(values), view_of(values), options).wait());
}

AllReduceOptions compressed(CompressionMode mode) {
  AllReduceOptions options;
  options.compression = {mode, 10, 1.0, 0, DataType::float32, 0.0};
  return options;
}

Config timeline_at(const std::string& path) {
  Config config;
  config.timeline = path;
  return config;
}

}  // namespace

TEST_CASE("a dense tensor is negotiated, waits, is packed, reduced and unpacked") {
  const std::string algorithm = GENERATE("auto", "ring");
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  Config config = timeline_at(path);
  config.allreduce_algorithm = algorithm;
  SessionWorld world(2, config);
  test::run_ranks(2, [&](int rank) {
    reduce(world[rank], "w");
    world[rank].stop_timeline();
  });
  const ReadTimeline timeline(path);
  CHECK(timeline.names("w") == Names{"NEGOTIATE_ALLREDUCE", "ALLREDUCE", "QUEUE",
                                     "MEMCPY_IN_FUSION_BUFFER", "MPI_ALLREDUCE",
                                     "MEMCPY_OUT_FUSION_BUFFER"});
  CHECK(timeline.overlap() == "");
  const auto span = timeline.of("w", "X")[1];
  CHECK(span["args"] == nlohmann::json{{"batch_tensors", 1}, {"batch_bytes", 4000}});
  const Names ranks = timeline.names("w", "i");
  CHECK(std::set<std::string>(ranks.begin(), ranks.end()) == std::set<std::string>{"0", "1"});
  CHECK_FALSE(timeline.has_row("CYCLE_START"));
  CHECK(timeline.names("cycles", "i").empty());
}

TEST_CASE("a compressed tensor shows what ScaleCom does, its step and who leads") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  const bool is_cyclic = GENERATE(true, false);
  SessionWorld world(2, timeline_at(path));
  test::run_ranks(2, [&](int rank) {
    const auto mode = is_cyclic ? CompressionMode::cyclic : CompressionMode::sharded;
    for (int step = 0; step < 2; ++step) reduce(world[rank], "w", compressed(mode));
    world[rank].stop_timeline();
  });
  const ReadTimeline timeline(path);
  const Names step{
      "NEGOTIATE_ALLREDUCE", "ALLREDUCE",        "QUEUE",       "SELECT", "INDEX_EXCHANGE",
      "RESIDUAL_UPDATE",     "VALUES_ALLREDUCE", "WRITE_RESULT"};
  const Names names = timeline.names("w");
  REQUIRE(names.size() == 16);
  CHECK(Names(names.begin(), names.begin() + 8) == step);
  CHECK(Names(names.begin() + 8, names.end()) == step);
  CHECK(timeline.overlap() == "");
  const auto second = timeline.of("w", "X")[9]["args"];
  CHECK(second["step"] == 1);
  CHECK(second.contains("leader") == is_cyclic);
  if (is_cyclic) CHECK(second["leader"] == 1);
}

TEST_CASE("other operations have Horovod's names") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  SessionWorld world(2, timeline_at(path));
  test::run_ranks(2, [&](int rank) {
    std::vector<float> values(8, 1.0f);
    expect_ok(world[rank].all_gather("gathered", view_of(values)).wait());
    expect_ok(world[rank].broadcast("broadcast", view_of(values), 1).wait());
    expect_ok(world[rank].reduce_scatter("scattered", view_of(values)).wait());
    expect_ok(world[rank].all_to_all("exchanged", view_of(values)).wait());
    expect_ok(world[rank].barrier().wait());
    world[rank].stop_timeline();
  });
  const ReadTimeline timeline(path);
  const auto names = [](const std::string& operation, const std::string& activity) {
    return Names{"NEGOTIATE_" + operation, operation, "QUEUE", activity};
  };
  CHECK(timeline.names("gathered") == names("ALLGATHER", "MPI_ALLGATHER"));
  CHECK(timeline.names("broadcast") == names("BROADCAST", "MPI_BCAST"));
  CHECK(timeline.names("scattered") == names("REDUCESCATTER", "MPI_REDUCESCATTER"));
  CHECK(timeline.names("exchanged") == names("ALLTOALL", "MPI_ALLTOALL"));
  CHECK(timeline.names("barrier.scalecom[barrier()]") ==
        Names{"NEGOTIATE_BARRIER", "BARRIER", "QUEUE"});
}

TEST_CASE("spans of a row never overlap, also without negotiation and with batches side by side") {
  constexpr int kSteps = 25;
  const test::TemporaryFolder folder;
  Config config = timeline_at(folder.path() + "/{rank}.json");
  config.timeline_mark_cycles = true;
  config.fusion_threshold_bytes = 10'000;
  SessionWorld world(3, config);
  test::run_ranks(3, [&](int rank) {
    std::vector<std::vector<float>> values(6, std::vector<float>(2000, 1.0f));
    for (int step = 0; step < kSteps; ++step) {
      std::vector<Ticket> tickets;
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto options = i < 4 ? AllReduceOptions{} : compressed(CompressionMode::sharded);
        tickets.push_back(world[rank].all_reduce("w" + std::to_string(i), view_of(values[i]),
                                                 view_of(values[i]), options));
      }
      for (const Ticket& ticket : tickets) expect_ok(ticket.wait());
    }
    world[rank].stop_timeline();
  });
  CHECK(world[0].stats().steady_agreements > 0);
  for (int rank = 0; rank < 3; ++rank) {
    const ReadTimeline timeline(folder.path() + "/" + std::to_string(rank) + ".json");
    CHECK(timeline.overlap() == "");
    for (int i = 0; i < 6; ++i) {
      const Names names = timeline.names("w" + std::to_string(i));
      CHECK(std::ranges::count(names, "NEGOTIATE_ALLREDUCE") == kSteps);
      CHECK(std::ranges::count(names, "ALLREDUCE") == kSteps);
      CHECK(std::ranges::count(names, "MEMCPY_IN_FUSION_BUFFER") == (i < 4 ? kSteps : 0));
      CHECK(std::ranges::count(names, "SELECT") == (i < 4 ? 0 : kSteps));
    }
    const Names cycles = timeline.names("cycles", "i");
    CHECK(cycles.size() >= kSteps);
    CHECK(std::ranges::count(cycles, "CYCLE_START") == static_cast<std::ptrdiff_t>(cycles.size()));
  }
}

TEST_CASE("rank 0 writes the file, and every rank its own where the path says so") {
  const test::TemporaryFolder folder;
  SessionWorld world(2);
  for (const std::string name : {"one.json", "{rank}.json"}) {
    for (int rank = 0; rank < 2; ++rank) world[rank].start_timeline(folder.path() + "/" + name);
    test::run_ranks(2, [&](int rank) { reduce(world[rank], name); });
    for (int rank = 0; rank < 2; ++rank) world[rank].stop_timeline();
  }
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    files.insert(entry.path().filename());
  }
  CHECK(files == std::set<std::string>{"0.json", "1.json", "one.json"});
  const ReadTimeline one(folder.path() + "/one.json");
  CHECK(one.has_row("one.json"));
  CHECK_FALSE(one.has_row("{rank}.json"));
  CHECK(ReadTimeline(folder.path() + "/1.json").has_row("{rank}.json"));
}

TEST_CASE("one timeline runs at a time, is stopped as often as one likes, and starts anew") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  SessionWorld world(1, timeline_at("DYNAMIC"));
  Session& session = world[0];
  session.stop_timeline();
  session.start_timeline(path);
  CHECK_THROWS_WITH(session.start_timeline(folder.path() + "/other.json"),
                    Contains(path + " already") && Contains("stop_timeline() first"));
  CHECK_FALSE(std::filesystem::exists(folder.path() + "/other.json"));
  reduce(session, "first");
  session.stop_timeline();
  session.stop_timeline();
  reduce(session, "between");
  session.start_timeline(path);
  reduce(session, "second");
  session.shutdown();
  const ReadTimeline timeline(path);
  CHECK(timeline.has_row("second"));
  CHECK_FALSE(timeline.has_row("first"));
  CHECK_FALSE(timeline.has_row("between"));
  CHECK_THROWS_AS(session.start_timeline(path), Error);
  CHECK_THROWS_WITH(SessionWorld(1, timeline_at("/nowhere/t.json")),
                    Contains("SCALECOM_TIMELINE=/nowhere/t.json") && Contains("No such file"));
}

TEST_CASE("a tensor in flight when a timeline begins is left out, and told from its next call on") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  SessionWorld world(2);
  std::vector<float> values(1000, 1.0f);
  const Ticket ticket = world[0].all_reduce("w", view_of(values), view_of(values));
  world[0].start_timeline(path);
  reduce(world[1], "w");
  expect_ok(ticket.wait());
  test::run_ranks(2, [&](int rank) { reduce(world[rank], "w"); });
  world[0].stop_timeline();
  const ReadTimeline timeline(path);
  const Names names = timeline.names("w");
  CHECK(std::ranges::count(names, "ALLREDUCE") == 1);
  CHECK(std::ranges::count(names, "NEGOTIATE_ALLREDUCE") == 1);
  CHECK(timeline.overlap() == "");
}

TEST_CASE("while a rank is missing the file says which have come") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  SessionWorld world(3, timeline_at(path));
  std::vector<float> values(10, 1.0f);
  const Ticket waiting = world[2].all_reduce("late", view_of(values), view_of(values));
  const Deadline deadline = Deadline::after(std::chrono::seconds(20));
  Names ranks;
  while (ranks.empty() && !deadline.has_passed()) {
    try {
      const ReadTimeline timeline(path);
      if (timeline.has_row("late")) ranks = timeline.names("late", "i");
    } catch (const nlohmann::json::parse_error&) {  // Read in parts, with a write in between.
    }
    std::this_thread::yield();
  }
  CHECK(ranks == Names{"2"});
}

TEST_CASE("sampled health is counters of the tensor's row") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  Config config = timeline_at(path);
  config.health_steps = 2;
  SessionWorld world(2, config);
  test::run_ranks(2, [&](int rank) {
    for (int step = 0; step < 4; ++step) {
      reduce(world[rank], "w", compressed(CompressionMode::sharded));
    }
    world[rank].stop_timeline();
  });
  const auto counters = ReadTimeline(path).of("w", "C");
  REQUIRE(counters.size() == 2);
  CHECK(counters[1]["name"] == "health of w");
  CHECK(counters[1]["args"]["relative_error"].get<double>() ==
        Approx(world[0].compression_health()[0].relative_error).epsilon(1e-4));
}
