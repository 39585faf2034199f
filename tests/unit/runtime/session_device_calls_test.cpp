// What a batch of many tensors asks of an accelerator, counted: each call is time of the host.
#include <fmt/format.h>

#include <algorithm>
#include <latch>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/exact_values.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/yield_until.hpp"
#include "tests/unit/device/held_nccl.hpp"

using namespace scalecom;
using test::DeviceTensor;
using test::DeviceWorld;
using test::expect_ok;
using test::SessionWorld;

namespace {

using Counts = std::vector<std::int64_t>;

constexpr int kTensors = 100;
constexpr std::int64_t kCount = 256;

// Tensors of one stream, of so many elements each.
std::vector<GroupMember> cut(const TensorView& all, const Counts& counts) {
  std::vector<GroupMember> members;
  auto* data = static_cast<float*>(all.data);
  for (const std::int64_t count : counts) {
    TensorView part = all;
    part.shape = {count};
    part.data = data;
    data += count;
    members.push_back({fmt::format("layer.{} of {}", members.size(), count), part, part});
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
    auto members = cut(all.view(), Counts(kTensors, kCount));
    expect_ok(session.all_reduce_group(std::move(members), options).wait());
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

// Of a rank alone. What is started is posted a look or two later; a reduce-scatter not before the
// batch behind its own, an all-reduce, has begun.
class LateCollectives final : public DeviceCollectives {
 public:
  std::string_view name() const noexcept override { return "late"; }
  std::string description() const override { return "late"; }
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  int host_size() const noexcept override { return 1; }
  void get_ready() noexcept override {
    if (is_posted()) return;
    has_next_begun_ = true;
    ++overlaps;
  }
  void all_reduce(std::byte*, std::int64_t, DataType, ReduceOp, Span, StreamHandle,
                  const WaitContext&) override {
    start("all-reduce");
  }
  void all_gather(std::byte*, std::span<const std::int64_t>, StreamHandle,
                  const WaitContext&) override {}
  void broadcast(std::byte*, std::int64_t, int, StreamHandle, const WaitContext&) override {}
  void reduce_scatter(std::byte*, std::span<const std::int64_t>, DataType, ReduceOp, StreamHandle,
                      const WaitContext&) override {
    start("reduce-scatter");
  }
  void all_to_all(const std::byte*, std::span<const std::int64_t>, std::byte*,
                  std::span<const std::int64_t>, StreamHandle, const WaitContext&) override {}
  bool advance(const WaitContext&) override {
    if (is_posted() || (!has_next_begun_ && !limit_.has_passed())) return false;
    return --looks_left_ == 0;
  }
  bool is_posted() const noexcept override { return looks_left_ == 0; }
  void check() override {}
  void close(const WaitContext&) override {}
  void abort() noexcept override {}
  TransportCounters counters() const noexcept override { return {}; }

  /// What was started, by the coordinator's thread.
  std::vector<std::string> started;
  int early = 0;     ///< before what was started earlier was posted
  int overlaps = 0;  ///< batches that began before that

 private:
  void start(const std::string& what) {
    if (!is_posted()) ++early;
    started.push_back(what);
    looks_left_ = 1 + static_cast<int>(draw_() % 2);
    if (what == "all-reduce") {
      has_next_begun_ = false;
      limit_ = Deadline::after(Clock::duration::zero());
    } else {
      limit_ = Deadline::after(std::chrono::seconds(1));
    }
  }

  std::mt19937 draw_{5};
  int looks_left_ = 0;
  bool has_next_begun_ = false;
  Deadline limit_ = Deadline::after(Clock::duration::zero());
};

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

AllReduceOptions compressed(CompressionMode mode = CompressionMode::sharded,
                            std::int64_t rate = 16) {
  AllReduceOptions options;
  options.compression.mode = mode;
  options.compression.rate = rate;
  return options;
}

// Each group's tensors as a batch of its own, several times; returns the calls of the last round.
std::map<std::string, int> calls_in_a_round(Session& session, test::FakeAccelerator& accelerator,
                                            int groups) {
  constexpr int kTensorsOfGroup = 3;
  std::vector<std::unique_ptr<DeviceTensor>> memory;
  for (int group = 0; group < groups; ++group) {
    memory.push_back(std::make_unique<DeviceTensor>(accelerator, DataType::float32,
                                                    Shape{kTensorsOfGroup * kCount}));
  }
  std::map<std::string, int> before;
  for (int round = 0; round < 5; ++round) {
    before = accelerator.calls();
    for (int group = 0; group < groups; ++group) {
      accelerator.synchronize();
      auto members =
          cut(memory[static_cast<std::size_t>(group)]->view(), Counts(kTensorsOfGroup, kCount));
      for (GroupMember& member : members) member.name += fmt::format(" of {}", group);
      expect_ok(session.all_reduce_group(std::move(members), compressed()).wait());
    }
  }
  auto calls = accelerator.calls();
  for (auto& [name, count] : calls) count -= before[name];
  return calls;
}

// Steps of a batch in one place; before the last ones a larger batch has its step, and a gradient
// is NaN. Returns where it has given other bits than the host's, or has written a table anew.
std::string differences_in_place(Session& host, Session& device, test::FakeAccelerator& accelerator,
                                 const AllReduceOptions& options) {
  const int rank = host.topology().rank;
  const Counts counts[] = {{1009, 3, 0, 777}, {5000, 1, 2600}};
  std::vector<std::unique_ptr<DeviceTensor>> tensors;
  for (const Counts& of_batch : counts) {
    const Shape shape{std::reduce(of_batch.begin(), of_batch.end())};
    tensors.push_back(std::make_unique<DeviceTensor>(accelerator, DataType::float32, shape));
  }
  constexpr unsigned kLargeStep = 5;
  constexpr unsigned kVoidStep = 7;
  std::string differs;
  for (unsigned step = 0; step < 13; ++step) {
    const std::size_t batch = step == kLargeStep ? 1 : 0;
    DeviceTensor& tensor = *tensors[batch];
    const std::int64_t count = tensor.view().count();
    auto expected =
        test::exact_values(DataType::float32, count, step * 10 + static_cast<unsigned>(rank));
    if (step == kVoidStep && rank == 0) std::fill_n(expected.begin() + 400, 4, std::byte{0xFF});
    tensor.write(expected);
    const int writes = accelerator.calls()["assign"];
    const Ticket ticket = device.all_reduce_group(cut(tensor.view(), counts[batch]), options);
    expect_ok(ticket.wait());
    const auto got = tensor.read(ticket);
    if (step > kLargeStep + 1 && accelerator.calls()["assign"] != writes) {
      differs += fmt::format("a table is written in step {}; ", step);
    }
    const TensorView view{expected.data(), DataType::float32, {count}, {}};
    expect_ok(host.all_reduce_group(cut(view, counts[batch]), options).wait());
    // The host reduces densely then.
    if (step != kVoidStep && got != expected) differs += fmt::format("step {}; ", step);
  }
  return differs;
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
  CHECK(calls_in_a_round(devices[0], devices.accelerator(0), kMax)["assign"] == 0);
  auto more = calls_in_a_round(devices[0], devices.accelerator(0), kMax + 1);
  CHECK(more["assign"] == kMax + 1);
  // Where others were: no memory is given back, which would be an event more.
  CHECK(more["record"] == 2 * (kMax + 1));
}

TEST_CASE("a compressed batch that stays in its place gives the host's bits, whoever leads") {
  for (const std::uint64_t seed : test::choose_seeds(8)) {
    CAPTURE(seed);
    std::mt19937 draw(static_cast<unsigned>(seed));
    const int size = 1 + static_cast<int>(seed % 5);
    const auto mode = draw() % 3 == 0 ? CompressionMode::cyclic : CompressionMode::sharded;
    const AllReduceOptions options = compressed(mode, draw() % 2 == 0 ? 7 : 300);
    test::NcclWorld nccl;
    DeviceWorld::LoadNccl load_nccl;
    if (draw() % 2 == 0) load_nccl = [&](auto& fake) { return nccl.make_api(fake); };
    SessionWorld hosts(size);
    DeviceWorld devices(size, seed, load_nccl);
    std::vector<std::string> found(static_cast<std::size_t>(size));
    test::run_ranks(size, [&](int rank) {
      found[static_cast<std::size_t>(rank)] =
          differences_in_place(hosts[rank], devices[rank], devices.accelerator(rank), options);
    });
    CHECK(found == std::vector<std::string>(static_cast<std::size_t>(size)));
  }
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

TEST_CASE(
    "first passes of a batch whose tensors are there do not wait for NCCL's call of the one "
    "before") {
  const bool is_compressed = GENERATE(false, true);
  const bool are_there = GENERATE(true, false);
  const char* const pass = is_compressed ? "select_and_sweep" : "scale_copy";
  const AllReduceOptions options = is_compressed ? compressed() : AllReduceOptions();
  Config config;
  config.fusion_threshold_bytes = 1;  // A batch a tensor.
  config.health_steps = 1;
  test::HeldNccl nccl;
  DeviceWorld devices(2, 5, nccl.load(), nullptr, config);
  std::latch are_connected(2);
  std::latch have_passes(2);
  std::vector<std::string> found(2);
  test::run_ranks(2, [&](int rank) {
    Session& session = devices[rank];
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    DeviceTensor one(accelerator, DataType::float32, {kCount});
    DeviceTensor two(accelerator, DataType::float32, {2 * kCount});
    const std::vector<float> ones(2 * kCount, 1.0f);
    const auto bytes = std::as_bytes(std::span(ones));
    one.write(bytes.first(bytes.size() / 2));
    two.write(bytes);
    expect_ok(session.all_reduce("first", one.view(), one.view()).wait());
    accelerator.synchronize();
    auto before = accelerator.calls();
    are_connected.arrive_and_wait();
    nccl.is_held = true;
    if (!are_there) {
      const auto entered = accelerator.enter();
      accelerator.enqueue(static_cast<StreamHandle>(two.view().stream),
                          {"of the user", {}, false, [&nccl] { return !nccl.is_held; }});
    }
    const Ticket first = session.all_reduce("one", one.view(), one.view(), options);
    const Ticket second = session.all_reduce("two", two.view(), two.view(), options);
    // Looks are for the lane of the batch before, and then for tensors.
    auto calls = before;
    test::yield_until(std::chrono::seconds(10), [&] {
      calls = accelerator.calls();
      return calls[pass] >= before[pass] + 2 ||
             (!are_there && calls["is_done"] >= before["is_done"] + 2);
    });
    found[static_cast<std::size_t>(rank)] = fmt::format(
        "{} passes, {} calls", calls[pass] - before[pass], calls["nccl"] - before["nccl"]);
    have_passes.arrive_and_wait();
    nccl.is_held = false;
    expect_ok(second.wait());
    expect_ok(first.wait());
    const auto got = two.read(second);
    if (!is_compressed && !std::ranges::equal(got, bytes)) {
      found[static_cast<std::size_t>(rank)] += ", and another result";
    }
    // Each batch's sample is read, whichever was enqueued to its end first.
    accelerator.synchronize();
    if (is_compressed && session.compression_health().size() != 2) {
      found[static_cast<std::size_t>(rank)] += ", and no health of both";
    }
  });
  CHECK(found ==
        std::vector<std::string>(2, are_there ? "2 passes, 0 calls" : "1 passes, 0 calls"));
}

TEST_CASE("collectives of a batch are started behind all of the batch before") {
  constexpr int kRounds = 20;
  auto owned = std::make_unique<test::FakeAccelerator>(1);
  test::FakeAccelerator& accelerator = *owned;
  LateCollectives* collectives = nullptr;
  SessionWorld world(1, {}, [&](int, SessionParts& parts) {
    parts.host_of_rank = {0};
    parts.make_accelerator = [&owned](int) { return std::move(owned); };
    parts.make_device_collectives = [&collectives](auto&&...) {
      auto made = std::make_unique<LateCollectives>();
      collectives = made.get();
      return made;
    };
  });
  DeviceTensor one(accelerator, DataType::float32, {kCount});
  DeviceTensor two(accelerator, DataType::float32, {kCount});
  ReduceOptions sum;
  sum.op = ReduceOp::sum;
  std::vector<std::string> expected;
  for (int round = 0; round < kRounds; ++round) {
    const auto scattered =
        world[0].reduce_scatter_group({{"a", one.view()}, {"b", one.view()}}, sum);
    expect_ok(world[0].all_reduce("c", two.view(), two.view()).wait());
    for (const Ticket& ticket : scattered) expect_ok(ticket.wait());
    expected.insert(expected.end(), {"reduce-scatter", "reduce-scatter", "all-reduce"});
  }
  CHECK(collectives->started == expected);
  CHECK(collectives->early == 0);
  CHECK(collectives->overlaps > kRounds / 2);
}
