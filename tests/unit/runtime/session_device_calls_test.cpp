// What a batch of many tensors asks of an accelerator, counted: each call is time of the host.
#include <fmt/format.h>

#include <map>
#include <string>

#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/device/nccl_world.hpp"

using namespace scalecom;
using test::DeviceTensor;
using test::DeviceWorld;
using test::expect_ok;

namespace {

constexpr int kTensors = 100;
constexpr std::int64_t kCount = 256;

// Tensors of one stream.
std::vector<GroupMember> cut(const TensorView& all, int tensors = kTensors) {
  std::vector<GroupMember> members;
  for (int i = 0; i < tensors; ++i) {
    TensorView part = all;
    part.shape = {kCount};
    part.data = static_cast<float*>(all.data) + i * kCount;
    members.push_back({fmt::format("layer.{}", i), part, part});
  }
  return members;
}

// "assign 2, record 1" of the last of some batches, by which nothing is new any more; without looks
// whether something is done, which depend on the device.
std::string calls_of_batch(Session& session, test::FakeAccelerator& accelerator,
                           const AllReduceOptions& options) {
  DeviceTensor all(accelerator, DataType::float32, {kTensors * kCount});
  std::map<std::string, int> before;
  for (int batch = 0; batch < 6; ++batch) {
    const std::int64_t batches = session.stats().device_batches;
    accelerator.synchronize();
    before = accelerator.calls();
    expect_ok(session.all_reduce_group(cut(all.view()), options).wait());
    if (session.stats().device_batches != batches + 1) {
      throw Error(StatusCode::internal, "the group was not one batch");
    }
  }
  std::vector<std::string> calls;
  for (const auto& [name, count] : accelerator.calls()) {
    if (count != before[name] && name != "is_done") {
      calls.push_back(fmt::format("{} {}", name, count - before[name]));
    }
  }
  return fmt::format("{}", fmt::join(calls, ", "));
}

using Calls = std::vector<std::string>;

Calls calls_on_ranks(int size, const AllReduceOptions& options) {
  test::NcclWorld nccl;
  DeviceWorld devices(size, 3, [&](auto& fake) { return nccl.make_api(fake); });
  Calls calls(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    calls[static_cast<std::size_t>(rank)] =
        calls_of_batch(devices[rank], devices.accelerator(rank), options);
  });
  return calls;
}

AllReduceOptions compressed(CompressionMode mode = CompressionMode::sharded) {
  AllReduceOptions options;
  options.compression.mode = mode;
  options.compression.rate = 16;
  return options;
}

// Each group's tensors as a batch of its own, several times; returns how often a table was written
// in the last round.
int writes_in_a_round(Session& session, test::FakeAccelerator& accelerator, int groups) {
  constexpr int kTensorsOfGroup = 3;
  std::vector<std::unique_ptr<DeviceTensor>> memory;
  for (int group = 0; group < groups; ++group) {
    memory.push_back(std::make_unique<DeviceTensor>(accelerator, DataType::float32,
                                                    Shape{kTensorsOfGroup * kCount}));
  }
  int before = 0;
  for (int round = 0; round < 5; ++round) {
    before = accelerator.calls()["assign"];
    for (int group = 0; group < groups; ++group) {
      accelerator.synchronize();
      auto members = cut(memory[static_cast<std::size_t>(group)]->view(), kTensorsOfGroup);
      for (GroupMember& member : members) member.name += fmt::format(" of {}", group);
      expect_ok(session.all_reduce_group(std::move(members), compressed()).wait());
    }
  }
  return accelerator.calls()["assign"] - before;
}

}  // namespace

// The group's inputs and the batch's end are an event each; packing and unpacking a pass each.
TEST_CASE("a dense batch of 100 tensors takes a handful of calls of an accelerator") {
  CHECK(calls_on_ranks(1, {}) == Calls{"assign 2, make_wait 1, record 2, scale_copy 2"});
  // To the wire and back.
  const std::string together = "assign 2, make_wait 3, nccl 1, record 4, scale_copy 2";
  CHECK(calls_on_ranks(2, {}) == Calls{together, together});
}

// No table is written anew, although another rank leads than in the batch before.
TEST_CASE("a compressed batch of 100 tensors takes few calls of an accelerator") {
  CHECK(calls_on_ranks(1, compressed()) ==
        Calls{"fill_selected 1, make_wait 1, mark 1, record 2, select_and_sweep 1"});
  const std::string together =
      "fill_selected 1, gather_and_sweep 1, make_wait 5, mark 1, nccl 2, pack_offsets 1, record 6, "
      "scale_copy 1, select_and_sweep 1, unpack_offsets 1";
  CHECK(calls_on_ranks(2, compressed()) == Calls{together, together});
}

TEST_CASE("who leads a cyclic batch takes the offsets from nobody, and others give none") {
  const auto calls = calls_on_ranks(2, compressed(CompressionMode::cyclic));
  CHECK(calls[0] ==
        "fill_selected 1, gather_and_sweep 1, make_wait 5, mark 1, nccl 2, record 6, scale_copy 1, "
        "unpack_offsets 1");
  CHECK(calls[1] ==
        "fill_selected 1, make_wait 5, mark 1, nccl 2, pack_offsets 1, record 6, scale_copy 1, "
        "select_and_sweep 1");
}

TEST_CASE("a lane keeps the tables of its last few compressed batches, and no more") {
  constexpr int kMax = DeviceSparseLayouts::kLayoutsMax;
  DeviceWorld devices(1, 3);
  CHECK(writes_in_a_round(devices[0], devices.accelerator(0), kMax) == 0);
  CHECK(writes_in_a_round(devices[0], devices.accelerator(0), kMax + 1) == kMax + 1);
}

TEST_CASE("the host's time for an accelerator's batches is counted") {
  DeviceWorld devices(1, 1);
  DeviceTensor tensor(devices.accelerator(0), DataType::float32, {4});
  for (int batch = 1; batch <= 3; ++batch) {
    expect_ok(devices[0].all_reduce("w", tensor.view(), tensor.view()).wait());
    CHECK(devices[0].stats().device_batches == batch);
  }
  CHECK(devices[0].stats().device_enqueue_us >= 0);
}
