// Collectives on a device by way of the host, on fake devices that each go at a pace of their own.

#include "collective/device/staged_collectives.hpp"

#include <atomic>

#include "collective/message_collectives.hpp"
#include "collective/shm/shm_collectives.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/host_world.hpp"
#include "tests/support/seeds.hpp"
#include "tests/unit/device/device_operations.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;
using Catch::Contains;

namespace {

constexpr StagedCollectives::Options kSmall{.block_bytes = 1024, .blocks_max = 3};

std::size_t index(int value) { return static_cast<std::size_t>(value); }

// A random program of a rank over these collectives of the host.
std::string run_program(Collectives& host, int size, std::vector<int> neighbours,
                        std::uint64_t seed) {
  const auto rank = static_cast<std::uint64_t>(host.rank());
  FakeAccelerator accelerator(1000 * seed + rank);
  StagedCollectives collectives(accelerator, host, size, kSmall);
  DeviceRank device{accelerator, collectives,
                    [&](const WaitContext& context) { return host.advance(context); },
                    std::move(neighbours)};
  return DeviceProgram(device, static_cast<unsigned>(seed)).run(12);
}

WaitContext short_patience() { return {Deadline::after(std::chrono::milliseconds(50)), nullptr}; }

/// Sums of two ranks' ones over messages, by rank. prepare(rank, accelerator) comes before the
/// call, finish(accelerator, collectives) once it is posted.
template <class Prepare, class Finish>
std::array<Bytes, 2> sums_of_ones(std::int64_t bytes, const Prepare& prepare,
                                  const Finish& finish) {
  LoopbackWorld world(2);
  std::array<Bytes, 2> found;
  run_ranks(2, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives host(*transport);
    FakeAccelerator own(static_cast<std::uint64_t>(rank));
    const auto inside = own.enter();
    StagedCollectives collectives(own, host, 2, kSmall);
    DeviceCall call(own, nullptr, Bytes(static_cast<std::size_t>(bytes), std::byte{1}));
    prepare(rank, own);
    collectives.all_reduce(call.data(), bytes, DataType::uint8, ReduceOp::sum,
                           DeviceCollectives::Span::all, nullptr, patience());
    DeviceRank device{own,
                      collectives,
                      [&](const WaitContext& context) { return host.advance(context); },
                      {rank}};
    post_all(device);
    finish(own, collectives);
    found[index(rank)].assign(call.data(), call.data() + bytes);
    own.synchronize();
  });
  return found;
}

}  // namespace

TEST_CASE("staged collectives over shared memory, messages and both give the host's results") {
  const Job job = GENERATE(Job{{{0, 1, 2}}, 3}, Job{{{0, 1}, {2, 3}}, 4}, Job{{{0, 2}, {1}}, 3});
  for (const std::uint64_t seed : choose_seeds(6)) {
    CAPTURE(job.hosts.size(), seed);
    std::vector<std::string> wrong(index(job.size));
    run_job(job, 1024, [&](int rank, HierarchicalCollectives& host) {
      for (const std::vector<int>& ranks : job.hosts) {
        if (std::find(ranks.begin(), ranks.end(), rank) == ranks.end()) continue;
        wrong[index(rank)] = run_program(host, job.size, ranks, seed);
      }
    });
    for (const std::string& problem : wrong) CHECK(problem == "");
  }
}

TEST_CASE("staged collectives of one host") {
  const int size = GENERATE(1, 2, 4);
  for (const std::uint64_t seed : choose_seeds(6)) {
    CAPTURE(size, seed);
    const BoardWorld world(size);
    std::vector<int> everyone(index(size));
    std::iota(everyone.begin(), everyone.end(), 0);
    std::vector<std::string> wrong(index(size));
    run_ranks(size, [&](int rank) {
      Board board = world.make_board(rank);
      ShmCollectives host(board, {.flat_bytes_max = 512, .block_bytes = 768});
      wrong[index(rank)] = run_program(host, size, everyone, seed);
    });
    for (const std::string& problem : wrong) CHECK(problem == "");
  }
}

TEST_CASE("staged collectives over messages alone") {
  const int size = GENERATE(2, 5);
  for (const std::uint64_t seed : choose_seeds(6)) {
    CAPTURE(size, seed);
    LoopbackWorld world(size);
    std::vector<std::string> wrong(index(size));
    run_ranks(size, [&](int rank) {
      const auto transport = world.make_transport(rank);
      MessageCollectives host(*transport);
      wrong[index(rank)] = run_program(host, size, {rank}, seed);
    });
    for (const std::string& problem : wrong) CHECK(problem == "");
  }
}

namespace {

// A rank that is alone with its collectives, and a stream that stands still until it is let go.
struct Stage {
  void block(StreamHandle stream) {
    accelerator.enqueue(stream, {"gate", {}, false, [this] { return is_open.load(); }});
  }
  void advance_often() {
    for (int i = 0; i < 500; ++i) collectives.advance(patience());
  }

  LoopbackWorld world{2};
  std::unique_ptr<Transport> transport{world.make_transport(0)};
  MessageCollectives host{*transport};
  FakeAccelerator accelerator{7};
  StagedCollectives collectives{accelerator, host, 2, kSmall};
  std::shared_ptr<void> entered = accelerator.enter();
  StreamOwner slow = accelerator.make_stream();
  StreamOwner fast = accelerator.make_stream();
  std::atomic<bool> is_open{false};
};

}  // namespace

TEST_CASE("operations start on the host in their order, also when a later one's copy is ready") {
  Stage stage;
  DeviceCall first(stage.accelerator, stage.slow.get(), Bytes(100));
  stage.block(stage.slow.get());
  DeviceCall second(stage.accelerator, stage.fast.get(), Bytes(200));
  const auto reduce = [&](const DeviceCall& call, std::int64_t count, StreamHandle stream) {
    stage.collectives.all_reduce(call.data(), count, DataType::uint8, ReduceOp::sum,
                                 DeviceCollectives::Span::all, stream, patience());
  };
  reduce(first, 100, stage.slow.get());
  reduce(second, 200, stage.fast.get());
  stage.advance_often();
  CHECK(stage.host.under_way() == 0);
  CHECK_FALSE(stage.collectives.is_posted());
  stage.is_open = true;
  stage.advance_often();
  CHECK(stage.host.under_way() == 2);
  stage.accelerator.synchronize();
}

TEST_CASE("a result waits for the stream that it is written in, also where nothing is copied in") {
  Stage stage;
  stage.block(stage.slow.get());
  DeviceCall call(stage.accelerator, stage.slow.get(), Bytes(100));
  run_ranks(2, [&](int rank) {
    if (rank == 1) {
      const auto transport = stage.world.make_transport(1);
      Bytes ones(100, std::byte{1});
      return MessageCollectives(*transport).broadcast(ones, 1, patience());
    }
    const auto inside = stage.accelerator.enter();
    stage.collectives.broadcast(call.data(), 100, 1, stage.slow.get(), patience());
    stage.advance_often();
    stage.is_open = true;
    const auto advance_host = [&](const WaitContext& context) {
      return stage.host.advance(context);
    };
    post_all({stage.accelerator, stage.collectives, advance_host, {0}});
    call.read("a broadcast", [](const Bytes& found) { return found == Bytes(100, std::byte{1}); });
    stage.accelerator.synchronize();
  });
  CHECK(call.problem() == "");
}

TEST_CASE("pinned memory is bounded, however large a tensor is") {
  const auto count_for = [](std::int64_t bytes) {
    Stage stage;
    DeviceCall call(stage.accelerator, stage.slow.get(), Bytes(static_cast<std::size_t>(bytes)));
    stage.collectives.all_reduce(call.data(), bytes, DataType::uint8, ReduceOp::sum,
                                 DeviceCollectives::Span::all, stage.slow.get(), patience());
    stage.advance_often();
    stage.accelerator.synchronize();
    return stage.accelerator.blocks() - 1;
  };
  CHECK(count_for(100) == 1);
  CHECK(count_for(1'000'000) == kSmall.blocks_max);
}

TEST_CASE("where there is memory for one block alone, turns follow each other in it") {
  const auto found = sums_of_ones(
      5000,
      [](int rank, FakeAccelerator& own) {
        if (rank == 1) own.set_free(kSmall.block_bytes);
      },
      [](FakeAccelerator& own, StagedCollectives&) { own.synchronize(); });
  CHECK(found[0] == Bytes(5000, std::byte{2}));
  CHECK(found[1] == Bytes(5000, std::byte{2}));
}

TEST_CASE("where there is no memory for a block, what was asked for is told") {
  Stage stage;
  DeviceCall call(stage.accelerator, stage.slow.get(), Bytes(100));
  stage.accelerator.set_free(1000);
  CHECK_THROWS_WITH(
      stage.collectives.all_reduce(call.data(), 100, DataType::uint8, ReduceOp::sum,
                                   DeviceCollectives::Span::all, stage.slow.get(), patience()),
      Contains("1024 bytes (1000 are free)"));
  CHECK_THROWS_WITH(stage.collectives.check(), Contains("1024 bytes"));
  stage.accelerator.synchronize();
}

TEST_CASE("an error of the host's collectives is told, and told again") {
  Stage stage;
  DeviceCall call(stage.accelerator, stage.fast.get(), Bytes(100));
  const bool is_lost = GENERATE(true, false);
  if (is_lost) stage.world.lose(1);
  stage.collectives.broadcast(call.data(), 100, 1, stage.fast.get(), patience());
  std::string message;
  try {
    while (true) stage.collectives.advance(short_patience());
  } catch (const Error& error) {
    CHECK(error.code() == (is_lost ? StatusCode::rank_lost : StatusCode::timed_out));
    message = error.what();
  }
  CHECK_THROWS_WITH(stage.collectives.advance(patience()), message);
  CHECK_THROWS_WITH(stage.collectives.check(), message);
  CHECK_THROWS_WITH(stage.collectives.broadcast(call.data(), 100, 1, stage.fast.get(), patience()),
                    message);
  stage.accelerator.synchronize();
}

TEST_CASE("what was aborted starts nothing more") {
  Stage stage;
  stage.block(stage.slow.get());
  DeviceCall call(stage.accelerator, stage.slow.get(), Bytes(100));
  stage.collectives.all_reduce(call.data(), 100, DataType::uint8, ReduceOp::sum,
                               DeviceCollectives::Span::all, stage.slow.get(), patience());
  stage.collectives.abort();
  CHECK(stage.collectives.is_posted());
  CHECK_THROWS_WITH(stage.collectives.check(), "the collectives were aborted");
  stage.is_open = true;
  stage.accelerator.synchronize();
  CHECK(stage.host.under_way() == 0);
}

TEST_CASE("nothing to move is posted at once, behind what was started before") {
  Stage stage;
  DeviceCall call(stage.accelerator, stage.slow.get(), Bytes(100));
  const auto reduce = [&](std::int64_t count) {
    stage.collectives.all_reduce(call.data(), count, DataType::uint8, ReduceOp::sum,
                                 DeviceCollectives::Span::all, stage.slow.get(), patience());
  };
  reduce(0);
  CHECK(stage.collectives.is_posted());
  reduce(100);
  reduce(0);
  CHECK_FALSE(stage.collectives.is_posted());
  stage.accelerator.synchronize();
}

TEST_CASE("the description says by what way and why") {
  Stage stage;
  StagedCollectives::Options options;
  options.reason = "NCCL is absent";
  const StagedCollectives described(stage.accelerator, stage.host, 2, options);
  CHECK(described.name() == "host");
  CHECK_THAT(described.description(),
             Contains("pinned memory") && Contains("messages") && Contains("NCCL is absent"));
  CHECK(described.counters().bytes_sent == 0);
}

TEST_CASE("the orderly end waits for the last copies to the device") {
  const auto found = sums_of_ones(
      3000, [](int, FakeAccelerator&) {},
      [](FakeAccelerator&, StagedCollectives& collectives) { collectives.close(patience()); });
  CHECK(found[0] == Bytes(3000, std::byte{2}));
  CHECK(found[1] == Bytes(3000, std::byte{2}));
}
