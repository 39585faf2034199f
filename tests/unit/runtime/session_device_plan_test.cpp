// Tensors of an accelerator for which auto decides by what was measured there.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/seeds.hpp"
#include "tests/unit/device/nccl_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::DeviceTensor;
using test::DeviceWorld;
using Values = std::vector<float>;

namespace {

constexpr std::int64_t kCount = 1 << 20;

Config auto_config() {
  Config config;
  config.mode = "auto";
  return config;
}

AllReduceOptions by_setting(std::int64_t rate) {
  AllReduceOptions options;
  options.compression = {CompressionMode::by_setting, rate, 0.1, 0};
  return options;
}

CompressionExplanation explain(Session& session, DeviceKind device) {
  return session.explain_compression(kCount, DataType::float32, {CompressionMode::by_setting},
                                     device);
}

// Of ones.
Values all_reduce(DeviceWorld& world, int rank, const std::string& name, std::int64_t count,
                  std::int64_t rate) {
  DeviceTensor tensor(world.accelerator(rank), DataType::float32, {count});
  Values values(static_cast<std::size_t>(count), 1.0f);
  tensor.write(std::as_bytes(std::span(values)));
  const Ticket ticket =
      world[rank].all_reduce(name, tensor.view(), tensor.view(), by_setting(rate));
  const Status status = ticket.wait();
  if (!status.is_ok()) throw Error(status);
  const std::vector<std::byte> bytes = tensor.read(ticket);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::int64_t travelled(const Values& values) {
  return std::ranges::count_if(values, [](float value) { return value != 0.0f; });
}

}  // namespace

TEST_CASE("auto decides by what ranks measured of their accelerators, alike on all of them") {
  for (const std::uint64_t seed : test::choose_seeds(2)) {
    test::NcclWorld nccl;
    DeviceWorld::LoadNccl load_nccl;
    if (seed % 2 == 0) load_nccl = [&](auto& accelerator) { return nccl.make_api(accelerator); };
    DeviceWorld world(2, seed, load_nccl, nullptr, auto_config());
    const std::string on_host = explain(world[0], DeviceKind::host).reason;
    CHECK_THAT(explain(world[0], DeviceKind::cuda).reason, Contains("are measured with the first"));
    std::vector<std::vector<std::int64_t>> counts(2);
    test::run_ranks(2, [&](int rank) {
      // The devices are connected already when they are measured.
      DeviceTensor tensor(world.accelerator(rank), DataType::float32, {3});
      world[rank].broadcast("first", tensor.view(), 0).wait();
      for (int step = 0; step < 3; ++step) {
        const Values values = all_reduce(world, rank, "w", kCount, 100);
        counts[static_cast<std::size_t>(rank)].push_back(travelled(values));
      }
    });
    const CompressionExplanation found = explain(world[0], DeviceKind::cuda);
    CHECK_THAT(found.reason, Contains("auto: dense takes"));
    CHECK(found.reason == explain(world[1], DeviceKind::cuda).reason);
    CHECK(explain(world[0], DeviceKind::host).reason == on_host);
    CHECK(found.reason != on_host);
    for (const auto& steps : counts) {
      CHECK(steps == std::vector<std::int64_t>{kCount, found.selected, found.selected});
    }
    CHECK(world[0].residual("w").step == (found.mode == CompressionMode::none ? 1 : 3));
  }
}

TEST_CASE("what a restored residual owes waits until auto has decided for an accelerator") {
  DeviceWorld world(2, 1, {}, nullptr, auto_config());
  std::vector<Values> results(2);
  test::run_ranks(2, [&](int rank) {
    world[rank].restore_residuals({{"w", {100}, 3, Values(100, 0.2f)}});
    for (int step = 0; step < 3; ++step) {
      // At rate 1 all values travel, and offsets besides.
      const Values values = all_reduce(world, rank, "w", 100, 1);
      results[static_cast<std::size_t>(rank)].push_back(values[17]);
    }
  });
  for (const Values& result : results) {
    CHECK(result[0] == 1.0f);
    CHECK(result[1] == Approx(3.0f));  // 1 + 0.2 / 0.1
    CHECK(result[2] == 1.0f);
  }
}

TEST_CASE("auto is dense on all ranks where one has no memory to measure its accelerator") {
  DeviceWorld world(2, 2, {}, nullptr, auto_config());
  world.accelerator(1).set_free(50 << 20);
  std::vector<std::int64_t> counts(2);
  test::run_ranks(2, [&](int rank) {
    for (int step = 0; step < 2; ++step) {
      counts[static_cast<std::size_t>(rank)] +=
          travelled(all_reduce(world, rank, "w", kCount, 100));
    }
  });
  CHECK(counts == std::vector<std::int64_t>(2, 2 * kCount));
  for (int rank = 0; rank < 2; ++rank) {
    const CompressionExplanation found = explain(world[rank], DeviceKind::cuda);
    CHECK(found.mode == CompressionMode::none);
    CHECK_THAT(found.reason, Contains("dense, as a rank could not measure its CUDA device"));
  }
}
