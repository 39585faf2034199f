#include <fmt/format.h>

#include <atomic>
#include <latch>
#include <optional>

#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/yield_until.hpp"
#include "tests/unit/device/nccl_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::DeviceTensor;
using test::DeviceWorld;
using test::expect_ok;

namespace {

std::vector<std::byte> bytes_of(const std::vector<float>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

using Submit = std::function<Ticket(Session& session, const TensorView& w, const TensorView& v)>;

Submit reducing(const AllReduceOptions& options) {
  return [options](Session& session, const TensorView& w, const TensorView& v) {
    return session.all_reduce_group({{"w", w, w}, {"v", v, v}}, options);
  };
}

// What each of two ranks got for what it submits, of rank 1's device with so many bytes left.
std::vector<Status> run_short_of_memory(std::size_t free, const Submit& submit) {
  DeviceWorld devices(2, 1);
  std::vector<Status> outcome(2, Status());
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor first(accelerator, DataType::float32, {4});
    DeviceTensor w(accelerator, DataType::float32, {3000});
    DeviceTensor v(accelerator, DataType::float32, {3000});
    expect_ok(devices[rank].all_reduce("first", first.view(), first.view()).wait());
    if (rank == 1) accelerator.set_free(free);
    Status& status = outcome[static_cast<std::size_t>(rank)];
    try {
      status = submit(devices[rank], w.view(), v.view()).wait();
      devices[rank].all_reduce("first", first.view(), first.view());
    } catch (const Error& error) {  // The session is over, with the same cause.
      if (error.status() != status) throw;
    }
  });
  return outcome;
}

// Rank 1, while rank 0 waits for a copy beyond the first `copies`: what is asked of a session that
// has failed sees no lost rank any more.
void lose_while_read(DeviceWorld& devices, int copies) {
  test::yield_until(std::chrono::seconds(10),
                    [&] { return devices.accelerator(0).calls()["copy"] != copies; });
  devices.lose(1);
}

}  // namespace

TEST_CASE("tensors on the wrong device are refused by name") {
  DeviceWorld devices(1, 1);
  DeviceTensor tensor(devices.accelerator(0), DataType::float32, {4});
  expect_ok(devices[0].all_reduce("first", tensor.view(), tensor.view()).wait());
  TensorView other = tensor.view();
  other.device.index = 3;
  CHECK_THROWS_WITH(devices[0].all_reduce("w", other, other),
                    Contains("CUDA device 3") && Contains("device 0"));
  std::vector<float> host(4);
  CHECK_THROWS_WITH(devices[0].all_reduce("w", tensor.view(), test::view_of(host)),
                    Contains("tensor w") && Contains("cuda:0") && Contains("the host"));
  CHECK_THROWS_WITH(
      devices[0].all_reduce_group(
          {{"w", tensor.view(), tensor.view()}, {"v", test::view_of(host), test::view_of(host)}}),
      Contains("tensor v") && Contains("the host") && Contains("w of the same group on cuda:0"));
  CHECK_THROWS_WITH(
      devices[0].all_reduce_group({{"w", tensor.view(), tensor.view()}, {"v", other, other}}),
      Contains("tensor v") && Contains("cuda:3") && Contains("w of the same group on cuda:0"));
  DeviceTensor apart(devices.accelerator(0), DataType::float32, {4});
  CHECK_THROWS_WITH(devices[0].all_reduce("w", tensor.view(), apart.view()),
                    Contains("different streams"));
}

TEST_CASE("a tensor whose stream is being captured is refused, and the session goes on") {
  DeviceWorld devices(1, 1);
  DeviceTensor tensor(devices.accelerator(0), DataType::float32, {4});
  const TensorView& view = tensor.view();
  devices.accelerator(0).capture(tensor.stream());
  CHECK_THROWS_WITH(devices[0].all_reduce("w", view, view),
                    Contains("tensor w") && Contains("captured into a CUDA graph"));
  CHECK_THROWS_WITH(devices[0].all_reduce_group({{"w", view, view}, {"v", view, view}}),
                    Contains("tensor w") && Contains("captured into a CUDA graph"));
  devices.accelerator(0).capture(nullptr);
  expect_ok(devices[0].all_reduce("w", view, view).wait());
}

TEST_CASE(
    "a tensor on another device than the session's is refused by name, and the session goes on") {
  DeviceWorld devices(1, 1);
  DeviceTensor tensor(devices.accelerator(0), DataType::float32, {4});
  const TensorView view = tensor.view();
  expect_ok(devices[0].all_reduce("w", view, view).wait());
  TensorView other = view;
  other.device.index = view.device.index + 1;
  const std::string told =
      fmt::format("tensor v: it is on CUDA device {}, but this session works on device {}",
                  other.device.index, view.device.index);
  CHECK_THROWS_WITH(devices[0].all_reduce("v", other, other), Contains(told));
  CHECK_THROWS_WITH(devices[0].all_reduce_group({{"u", view, view}, {"v", other, other}}),
                    Contains("tensor v") && Contains("one device"));
  expect_ok(devices[0].all_reduce("v", view, view).wait());
}

TEST_CASE("ranks that disagree on the device of a tensor are told so") {
  DeviceWorld devices(2, 1);
  std::vector<Status> outcome(2, Status());
  test::run_ranks(2, [&](int rank) {
    DeviceTensor tensor(devices.accelerator(rank), DataType::float32, {4});
    std::vector<float> host(4);
    const TensorView view = rank == 0 ? tensor.view() : test::view_of(host);
    outcome[static_cast<std::size_t>(rank)] = devices[rank].all_reduce("w", view, view).wait();
  });
  for (const Status& status : outcome) {
    CHECK(status.code() == StatusCode::mismatch);
    CHECK_THAT(status.message(), Contains("device") && Contains("cuda"));
  }
}

TEST_CASE("a process that cannot use the CUDA device is told why at the call, and goes on") {
  std::string expected = "CUDA device 1000 is not there";
  try {
    describe_cuda_devices();
  } catch (const Error& error) {  // No driver, no device or no CUDA in this build.
    expected = error.what();
  }
  test::SessionWorld world(
      1, {}, [](int, SessionParts& parts) { parts.make_accelerator = make_cuda_accelerator; });
  std::vector<float> values(4, 1.0f);
  TensorView view = test::view_of(values);
  view.device = {DeviceKind::cuda, 1000};
  CHECK_THROWS_WITH(world[0].all_reduce("w", view, view), Contains("tensor w: " + expected));
  view.device = {};
  expect_ok(world[0].all_reduce("w", view, view).wait());
}

TEST_CASE("a rank without memory for a batch fails it on all ranks, with what it needs") {
  // Two slots of 12,000 bytes.
  for (const Status& status : run_short_of_memory(20'000, reducing({}))) {
    CHECK(status.code() == StatusCode::unavailable);
    CHECK_THAT(status.message(),
               Contains("first: w) on rank 1") && Contains("a buffer of 24000 bytes") &&
                   Contains("20016 are free") && Contains("SCALECOM_FUSION_THRESHOLD"));
  }
}

TEST_CASE("a rank without memory for a residual fails its step on all ranks, by name") {
  AllReduceOptions options;
  options.compression.mode = CompressionMode::sharded;
  for (const Status& status : run_short_of_memory(20'000, reducing(options))) {
    CHECK(status.code() == StatusCode::unavailable);
    CHECK_THAT(status.message(),
               Contains("on rank 1") && Contains("tensor v: its residual takes 12000 bytes") &&
                   Contains("8000 are free") && Contains("compress fewer tensors"));
  }
}

TEST_CASE("a rank without memory for a gather's result fails it on all ranks, by name") {
  const Submit submit = [](Session& session, const TensorView& w, const TensorView&) {
    return session.all_gather("w", w);
  };
  for (const Status& status : run_short_of_memory(20'000, submit)) {
    CHECK(status.code() == StatusCode::unavailable);
    CHECK_THAT(
        status.message(),
        Contains("on rank 1") && Contains("tensor w: its result takes 24000 bytes on the device"));
  }
}

TEST_CASE("memory that a gather's result has left is there for whatever comes next") {
  struct Next {
    std::size_t free;  // More than the result's 24,000 bytes, less than those and what is needed.
    Submit submit;
  };
  AllReduceOptions compressed;
  compressed.compression.mode = CompressionMode::sharded;
  const std::vector<Next> all{
      {36'000, [](auto& session, auto&, auto& v) { return session.all_reduce("v", v, v); }},
      {36'000,
       [&](auto& session, auto&, auto& v) { return session.all_reduce("v", v, v, compressed); }},
      {60'000, [](auto& session, auto&, auto& v) { return session.all_gather("v", v); }}};
  for (const Next& next : all) {
    DeviceWorld devices(2, 1);
    std::vector<int> is_limited(2);
    test::run_ranks(2, [&](int rank) {
      test::FakeAccelerator& accelerator = devices.accelerator(rank);
      DeviceTensor w(accelerator, DataType::float32, {3000});
      DeviceTensor v(accelerator, DataType::float32, {7000});
      expect_ok(devices[rank].all_reduce("w", w.view(), w.view()).wait());
      accelerator.set_free(next.free);
      expect_ok(devices[rank].all_gather("w", w.view()).wait());
      accelerator.synchronize();
      expect_ok(next.submit(devices[rank], w.view(), v.view()).wait());
      is_limited[static_cast<std::size_t>(rank)] = test::yield_until(
          std::chrono::seconds(10), [&] { return accelerator.is_kept_limited(); });
    });
    CHECK(is_limited == std::vector<int>(2, 1));
  }
}

TEST_CASE("batches that an accelerator has no memory for at once go one after the other") {
  test::NcclWorld nccl;
  DeviceWorld devices(2, 3, [&](auto& accelerator) { return nccl.make_api(accelerator); });
  std::vector<std::vector<std::byte>> results(4);
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    std::atomic<bool> is_held = rank == 1;
    DeviceTensor first(accelerator, DataType::float32, {4});
    DeviceTensor w(accelerator, DataType::float32, {3000});
    DeviceTensor v(accelerator, DataType::float32, {4000});
    expect_ok(devices[rank].all_reduce("first", first.view(), first.view()).wait());
    w.write(bytes_of(std::vector<float>(3000, 1.0f)));
    v.write(bytes_of(std::vector<float>(4000, static_cast<float>(rank))));
    if (rank == 1) {
      const auto entered = accelerator.enter();
      accelerator.enqueue(w.stream(), {"held", {}, false, [&] { return !is_held; }});
      accelerator.set_free(17'000);
    }
    const Ticket one = devices[rank].all_reduce("w", w.view(), w.view());
    expect_ok(one.wait());
    const Ticket two = devices[rank].all_reduce("v", v.view(), v.view());
    test::yield_until(std::chrono::seconds(10),
                      [&] { return !is_held || accelerator.calls()["refuse"] > 0; });
    is_held = false;
    expect_ok(two.wait());
    const auto at = 2 * static_cast<std::size_t>(rank);
    results[at] = w.read(one);
    results[at + 1] = v.read(two);
  });
  CHECK(devices.accelerator(1).calls()["refuse"] > 0);
  for (std::size_t rank = 0; rank < 2; ++rank) {
    CHECK(results[2 * rank] == bytes_of(std::vector<float>(3000, 1.0f)));
    CHECK(results[2 * rank + 1] == bytes_of(std::vector<float>(4000, 0.5f)));
  }
}

TEST_CASE("a rank that is lost fails an accelerator's batch in bounded time") {
  DeviceWorld devices(3, 2);
  std::vector<Status> outcome(3, Status());
  std::latch all_have_it(3);
  test::run_ranks(3, [&](int rank) {
    DeviceTensor first(devices.accelerator(rank), DataType::float32, {3000});
    expect_ok(devices[rank].all_reduce("first", first.view(), first.view()).wait());
    all_have_it.arrive_and_wait();
    if (rank == 2) {
      devices.lose(2);
      return;
    }
    DeviceTensor tensor(devices.accelerator(rank), DataType::float32, {5000});
    Status& status = outcome[static_cast<std::size_t>(rank)];
    try {
      status = devices[rank].all_reduce("next", tensor.view(), tensor.view()).wait();
    } catch (const Error& error) {  // The loss may be known already.
      status = error.status();
    }
  });
  CHECK(outcome[0].code() == StatusCode::rank_lost);
  CHECK(outcome[1].code() == StatusCode::rank_lost);
}

TEST_CASE("a residual that the device holds back is not waited for when a rank is lost") {
  test::NcclWorld nccl;
  Config config;
  config.collective_timeout_s = 20.0;  // What a wait that sees no lost rank ends by.
  DeviceWorld devices(
      2, 2, [&](auto& accelerator) { return nccl.make_api(accelerator); }, nullptr, config);
  int copies = 0;
  std::latch both_have_it(2);
  std::latch is_read(1);
  std::atomic<bool> is_held = true;
  Status outcome;
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor tensor(accelerator, DataType::float32, {300});
    if (rank == 0) {
      const auto entered = accelerator.enter();
      accelerator.enqueue(tensor.stream(), {"held", {}, false, [&] { return !is_held; }});
    }
    AllReduceOptions options;
    options.compression.mode = CompressionMode::sharded;
    expect_ok(devices[rank].all_reduce("w", tensor.view(), tensor.view(), options).wait());
    if (rank == 0) copies = accelerator.calls()["copy"];
    both_have_it.arrive_and_wait();
    if (rank == 1) {
      lose_while_read(devices, copies);
      return is_read.wait();
    }
    try {
      devices[rank].residual("w");
    } catch (const Error& error) {
      outcome = error.status();
    }
    is_held = false;
    is_read.count_down();
  });
  CHECK(outcome.code() == StatusCode::rank_lost);
}

TEST_CASE("a collective that waits for a lost rank holds up neither a read nor the session's end") {
  test::NcclWorld nccl;
  Config config;
  config.collective_timeout_s = 20.0;
  config.health_steps = 1;
  DeviceWorld devices(
      2, 2, [&](auto& accelerator) { return nccl.make_api(accelerator); }, nullptr, config);
  int copies = 0;
  std::latch both_have_it(2);
  std::latch has_ended(1);
  std::atomic<bool> is_held = true;
  Status outcome;
  std::size_t figures = 0;
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor tensor(accelerator, DataType::float32, {300});
    if (rank == 1) {  // Never comes to its part of the collective.
      const auto entered = accelerator.enter();
      accelerator.enqueue(tensor.stream(), {"held", {}, false, [&] { return !is_held; }});
    }
    AllReduceOptions options;
    options.compression.mode = CompressionMode::sharded;
    expect_ok(devices[rank].all_reduce("w", tensor.view(), tensor.view(), options).wait());
    if (rank == 0) copies = accelerator.calls()["copy"];
    both_have_it.arrive_and_wait();
    if (rank == 1) {
      lose_while_read(devices, copies);
      has_ended.wait();
      is_held = false;
      return;
    }
    try {
      devices[rank].residual("w");
    } catch (const Error& error) {
      outcome = error.status();
    }
    accelerator.synchronize();  // Only the abort ends the collective.
    figures = devices[rank].compression_health().size();
    has_ended.count_down();
  });
  CHECK(outcome.code() == StatusCode::rank_lost);
  CHECK(figures == 0);  // Of a batch that was aborted there are none.
}

TEST_CASE("a call of NCCL that does not come back ends at its deadline, or when a rank is lost") {
  const bool is_lost = GENERATE(false, true);
  Config config;
  config.collective_timeout_s = is_lost ? 20.0 : 0.3;
  config.fusion_threshold_bytes = 1;  // A batch a tensor.
  std::atomic<bool> is_held = !is_lost;
  test::NcclWorld nccl;
  const auto load = [&](test::FakeAccelerator& accelerator) {
    device::nccl::Api api = nccl.make_api(accelerator);
    const auto is_aborted = std::make_shared<std::atomic<bool>>(false);
    api.all_reduce = [&is_held, is_aborted, real = api.all_reduce](auto... arguments) {
      if (!is_held) return real(arguments...);
      test::yield_until(std::chrono::seconds(20), [&] { return is_aborted->load(); });
      return device::nccl::Result::internal_error;
    };
    api.comm_abort = [is_aborted, real = api.comm_abort](device::nccl::CommHandle comm) {
      *is_aborted = true;
      return real(comm);
    };
    return api;
  };
  DeviceWorld devices(2, 3, load, nullptr, config);
  std::vector<Status> outcome(4, Status());
  std::latch are_connected(2);
  std::latch have_passes(2);
  const TimePoint begun = Clock::now();
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor one(accelerator, DataType::float32, {300});
    DeviceTensor two(accelerator, DataType::float32, {300});
    if (is_lost) {  // With little time what comes before the call may end as the call does.
      expect_ok(devices[rank].all_reduce("first", one.view(), one.view()).wait());
      are_connected.arrive_and_wait();
      is_held = true;
    }
    const int passes = accelerator.calls()["scale_copy"];
    const auto at = 2 * static_cast<std::size_t>(rank);
    const Ticket first = devices[rank].all_reduce("one", one.view(), one.view());
    std::optional<Ticket> second;
    try {
      second = devices[rank].all_reduce("two", two.view(), two.view());
    } catch (const Error& error) {  // The deadline was faster.
      outcome[at + 1] = error.status();
    }
    test::yield_until(std::chrono::seconds(10), [&] {
      return first.is_ready() || accelerator.calls()["scale_copy"] >= passes + 2;
    });
    have_passes.arrive_and_wait();
    if (is_lost && rank == 1) devices.lose(1);
    outcome[at] = first.wait();
    if (second) outcome[at + 1] = second->wait();
  });
  const StatusCode expected = is_lost ? StatusCode::rank_lost : StatusCode::timed_out;
  CHECK(outcome[0].code() == expected);
  CHECK(outcome[1] == outcome[0]);
  if (!is_lost) {
    CHECK_THAT(outcome[0].message(), Contains("the deadline has passed; a rank may hang, or "
                                              "SCALECOM_COLLECTIVE_TIMEOUT is too short"));
  }
  CHECK(Clock::now() - begun < std::chrono::seconds(15));
}

TEST_CASE("a batch that the device does not end in time ends the session, and names the setting") {
  test::NcclWorld nccl;
  Config config;
  config.collective_timeout_s = 3.0;
  DeviceWorld devices(
      2, 2, [&](auto& accelerator) { return nccl.make_api(accelerator); }, nullptr, config);
  std::latch have_failed(2);
  std::atomic<bool> is_held = true;
  std::vector<Status> outcome(2);
  test::run_ranks(2, [&](int rank) {
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor tensor(accelerator, DataType::float32, {300});
    {
      const auto entered = accelerator.enter();
      accelerator.enqueue(tensor.stream(), {"held", {}, false, [&] { return !is_held; }});
    }
    Status& status = outcome[static_cast<std::size_t>(rank)];
    const Deadline end = Deadline::after(std::chrono::seconds(30));
    try {
      status = devices[rank].all_reduce("held", tensor.view(), tensor.view()).wait();
      while (status.is_ok() && !end.has_passed()) status = devices[rank].barrier().wait();
    } catch (const Error& error) {
      status = error.status();
    }
    have_failed.arrive_and_wait();
    is_held = false;
  });
  for (const Status& status : outcome) {  // The one rank's, or what the other has told it.
    CHECK(status.code() == StatusCode::timed_out);
    CHECK_THAT(status.message(), Contains("has not ended 3 s after it was enqueued") &&
                                     Contains("SCALECOM_COLLECTIVE_TIMEOUT is too short"));
  }
}
