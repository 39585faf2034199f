// Batches of an accelerator that begin while a call of NCCL of the one before is under way, and
// what they take then.
#include <chrono>
#include <functional>
#include <latch>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/yield_until.hpp"
#include "tests/unit/device/held_nccl.hpp"

using namespace scalecom;
using Catch::Contains;
using test::DeviceTensor;
using test::DeviceWorld;
using test::expect_ok;

namespace {

constexpr std::int64_t kCount = 256;

Config batch_a_tensor() {
  Config config;
  config.fusion_threshold_bytes = 1;
  return config;
}

AllReduceOptions compressed(CompressionMode mode) {
  AllReduceOptions options;
  options.compression.mode = mode;
  options.compression.rate = 16;
  return options;
}

// Until the accelerator has had so many calls of a name.
bool wait_for(test::FakeAccelerator& accelerator, const std::string& call, int count) {
  return test::yield_until(std::chrono::seconds(10),
                           [&] { return accelerator.calls()[call] >= count; });
}

void wait_until(TimePoint end) {
  while (Clock::now() < end) std::this_thread::yield();
}

// Connects, and leaves no table behind.
void connect(Session& session, const DeviceTensor& tensor) {
  expect_ok(session.broadcast("connects", tensor.view(), 0).wait());
}

struct Outcome {
  std::string problem;
  int writes = 0;  ///< of tables, once the first collective is called
};
// A batch's on each rank, where rank 1's device has no memory left from the call of the batch's
// first collective on. `prepare` comes before the batch.
using Prepare = std::function<void(Session& session, const TensorView& view)>;
std::vector<Outcome> run_out_of_memory(DeviceWorld& devices, test::HeldNccl& nccl, int size,
                                       const AllReduceOptions& options,
                                       const Prepare& prepare = {}) {
  std::vector<Outcome> outcome(static_cast<std::size_t>(size));
  std::latch are_prepared(size);
  test::run_ranks(size, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor tensor(accelerator, DataType::float32, {kCount});
    const std::vector<float> ones(kCount, 1.0f);
    tensor.write(std::as_bytes(std::span(ones)));
    connect(devices[rank], tensor);
    if (prepare) prepare(devices[rank], tensor.view());
    accelerator.synchronize();
    if (rank == 1) nccl.hold_calls_of(&accelerator);
    are_prepared.arrive_and_wait();
    const Ticket ticket = devices[rank].all_reduce("w", tensor.view(), tensor.view(), options);
    Outcome& own = outcome[static_cast<std::size_t>(rank)];
    if (rank == 1) {
      const auto has_call = [&] { return nccl.has_call.load(); };
      if (!test::yield_until(std::chrono::seconds(10), has_call)) {
        own.problem = "there is no call; ";
      }
      own.writes = -accelerator.calls()["assign"];
      accelerator.set_free(0);
      nccl.is_held = false;
    }
    own.problem += ticket.wait().message();
    own.writes += accelerator.calls()["assign"];
  });
  return outcome;
}

}  // namespace

TEST_CASE("a batch has its memory before its first collective") {
  test::HeldNccl nccl;
  std::vector<Outcome> outcome;
  SECTION("for a sample") {
    Config config;
    config.health_steps = 1;
    DeviceWorld devices(2, 5, nccl.load(), nullptr, config);
    outcome = run_out_of_memory(devices, nccl, 2, compressed(CompressionMode::sharded));
    CHECK(devices[1].compression_health().size() == 1);
  }
  SECTION("for the scaling of averages") {
    test::HostsWorld hosts({{0, 1}, {2, 3}});
    DeviceWorld devices(4, 5, nccl.load(), &hosts);
    outcome = run_out_of_memory(devices, nccl, 4, compressed(CompressionMode::hierarchical));
    CHECK(outcome[1].writes == 0);
  }
  SECTION("for a residual that is delivered") {
    DeviceWorld devices(2, 5, nccl.load());
    const auto compress = [](Session& session, const TensorView& view) {
      const auto options = compressed(CompressionMode::sharded);
      expect_ok(session.all_reduce("w", view, view, options).wait());
    };
    outcome = run_out_of_memory(devices, nccl, 2, {}, compress);
    CHECK(outcome[1].writes == 0);
  }
  for (const Outcome& one : outcome) CHECK(one.problem == "");
}

TEST_CASE("what goes wrong in a batch that begins early leaves the one before to end well") {
  test::HeldNccl nccl;
  DeviceWorld devices(2, 5, nccl.load(), nullptr, batch_a_tensor());
  std::vector<Status> first(2, Status());
  std::vector<Status> second(2, Status());
  std::latch are_connected(2);
  std::latch is_first_done(1);
  std::string problem;
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor one(accelerator, DataType::float32, {kCount});
    DeviceTensor two(accelerator, DataType::float32, {100 * kCount});
    connect(devices[rank], one);
    accelerator.synchronize();
    if (rank == 1) nccl.hold_calls_of(&accelerator);
    are_connected.arrive_and_wait();
    const auto place = static_cast<std::size_t>(rank);
    const Ticket ticket = devices[rank].all_reduce("one", one.view(), one.view());
    if (rank == 1) {
      if (!wait_for(accelerator, "scale_copy", 1)) problem = "the first batch does not begin";
      accelerator.set_free(0);
    }
    const Ticket next = devices[rank].all_reduce("two", two.view(), two.view(),
                                                 compressed(CompressionMode::sharded));
    if (rank == 1) {
      if (!wait_for(accelerator, "refuse", 1)) problem = "the second batch does not begin";
      is_first_done.wait();
      nccl.is_held = false;
    }
    first[place] = ticket.wait();
    if (rank == 0) is_first_done.count_down();
    second[place] = next.wait();
  });
  CHECK(problem == "");
  for (const Status& status : first) CHECK(status.message() == "");
  // Rank 0 may have enqueued all of it by then.
  CHECK(second[1].code() == StatusCode::unavailable);
  CHECK_THAT(second[1].message(),
             Contains("first: two) on rank 1") && Contains("tensor two: its residual takes"));
}

TEST_CASE("the time that a batch may take begins when the one before is enqueued") {
  using std::chrono::milliseconds;
  constexpr auto kLimit = milliseconds(6000);
  Config config = batch_a_tensor();
  config.collective_timeout_s = 6.0;
  test::HeldNccl nccl;
  DeviceWorld devices(2, 5, nccl.load(), nullptr, config);
  std::vector<std::string> outcome(2);
  std::latch are_connected(2);
  std::latch have_begun(2);
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor one(accelerator, DataType::float32, {kCount});
    DeviceTensor two(accelerator, DataType::float32, {kCount});
    connect(devices[rank], one);
    accelerator.synchronize();
    nccl.is_held = true;
    are_connected.arrive_and_wait();
    const Ticket first = devices[rank].all_reduce("one", one.view(), one.view());
    const Ticket second = devices[rank].all_reduce("two", two.view(), two.view());
    std::string& text = outcome[static_cast<std::size_t>(rank)];
    if (!wait_for(accelerator, "scale_copy", 2)) text = "the second batch does not begin; ";
    const TimePoint begun = Clock::now();
    have_begun.arrive_and_wait();
    wait_until(begun + kLimit / 2);
    nccl.let_through = 1;
    text += first.wait().message();
    wait_until(begun + kLimit + milliseconds(100));
    nccl.let_through = 2;
    text += second.wait().message();
  });
  CHECK(outcome == std::vector<std::string>(2));
}
