#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>

#include "kernels/reduce.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/exact_values.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/seeds.hpp"
#include "tests/unit/device/nccl_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::DeviceTensor;
using test::DeviceWorld;
using test::exact_values;
using test::expect_ok;
using test::SessionWorld;

namespace {

using Bytes = std::vector<std::byte>;

struct Member {
  std::string name;
  DataType dtype = DataType::float32;
  Shape shape = {};
  bool is_in_place = false;
};

// One call of a group, the same on the host and on the device.
struct Call {
  std::vector<Member> members;
  AllReduceOptions options;
  unsigned seed = 0;
};

Bytes input_of(const Call& call, std::size_t member, int rank) {
  const Member& one = call.members[member];
  return exact_values(
      one.dtype, count_of(one.shape),
      call.seed * 1000 + static_cast<unsigned>(member * 10) + static_cast<unsigned>(rank));
}

using Results = std::vector<Bytes>;

Results run_on_host(Session& session, const Call& call) {
  const int rank = session.topology().rank;
  Results inputs;
  Results outputs;
  std::vector<GroupMember> group;
  for (std::size_t i = 0; i < call.members.size(); ++i) {
    inputs.push_back(input_of(call, i, rank));
    outputs.emplace_back(inputs.back().size());
  }
  for (std::size_t i = 0; i < call.members.size(); ++i) {
    const Member& member = call.members[i];
    group.push_back({member.name,
                     {inputs[i].data(), member.dtype, member.shape, {}},
                     {outputs[i].data(), member.dtype, member.shape, {}}});
  }
  expect_ok(session.all_reduce_group(std::move(group), call.options).wait());
  return outputs;
}

Results run_on_device(Session& session, test::FakeAccelerator& accelerator, const Call& call) {
  const int rank = session.topology().rank;
  std::vector<std::unique_ptr<DeviceTensor>> inputs;
  std::vector<std::unique_ptr<DeviceTensor>> outputs;
  std::vector<GroupMember> group;
  for (std::size_t i = 0; i < call.members.size(); ++i) {
    const Member& member = call.members[i];
    inputs.push_back(std::make_unique<DeviceTensor>(accelerator, member.dtype, member.shape));
    inputs[i]->write(input_of(call, i, rank));
    outputs.push_back(member.is_in_place ? nullptr
                                         : std::make_unique<DeviceTensor>(accelerator, member.dtype,
                                                                          member.shape));
    TensorView output = (member.is_in_place ? *inputs[i] : *outputs[i]).view();
    output.stream = inputs[i]->stream();
    group.push_back({member.name, inputs[i]->view(), output});
  }
  const Ticket ticket = session.all_reduce_group(std::move(group), call.options);
  expect_ok(ticket.wait());
  Results results;
  for (std::size_t i = 0; i < call.members.size(); ++i) {
    results.push_back((call.members[i].is_in_place ? *inputs[i] : *outputs[i]).read(ticket));
  }
  return results;
}

std::string difference(const Call& call, const Results& device, const Results& host) {
  for (std::size_t i = 0; i < host.size(); ++i) {
    if (device[i] == host[i]) continue;
    const auto place = std::ranges::mismatch(device[i], host[i]).in1 - device[i].begin();
    return call.members[i].name + " differs at byte " + std::to_string(place) + " of " +
           std::to_string(host[i].size());
  }
  return "";
}

// The calls give the same bits on the device as on the host; so do the residuals afterwards.
void check_calls(int size, std::uint64_t seed, const std::vector<Call>& calls,
                 const HostRanks& places = {}) {
  // Every other time through the host.
  test::NcclWorld nccl;
  DeviceWorld::LoadNccl load_nccl;
  if (seed % 2 == 0) load_nccl = [&](auto& accelerator) { return nccl.make_api(accelerator); };
  std::optional<test::HostsWorld> places_of_hosts;
  std::optional<test::HostsWorld> places_of_devices;
  SessionWorld::Adjust equip;
  if (!places.empty()) {
    places_of_hosts.emplace(places);
    places_of_devices.emplace(places);
    equip = [&](int rank, SessionParts& parts) { places_of_hosts->equip(rank, parts); };
  }
  SessionWorld hosts(size, {}, equip);
  DeviceWorld devices(size, seed, load_nccl, places.empty() ? nullptr : &*places_of_devices);
  std::vector<std::string> found(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    std::string& differs = found[static_cast<std::size_t>(rank)];
    for (const Call& call : calls) {
      const Results host = run_on_host(hosts[rank], call);
      const Results device = run_on_device(devices[rank], devices.accelerator(rank), call);
      if (differs.empty()) differs = difference(call, device, host);
    }
    for (const ResidualInfo& info : hosts[rank].residuals()) {
      const Residual a = hosts[rank].residual(info.name);
      const Residual b = devices[rank].residual(info.name);
      if (differs.empty() && (a.values != b.values || a.step != b.step)) {
        differs = "residual of " + info.name;
      }
    }
  });
  for (const std::string& differs : found) CHECK(differs == "");
}

// Of float32 or bfloat16.
float value_at(const Bytes& bytes, DataType dtype, std::size_t index) {
  std::uint32_t bits = 0;
  const auto size = static_cast<std::size_t>(size_of(dtype));
  std::memcpy(reinterpret_cast<std::byte*>(&bits) + 4 - size, &bytes[index * size], size);
  return std::bit_cast<float>(bits);
}

AllReduceOptions with_op(ReduceOp op, double prescale = 1.0, double postscale = 1.0) {
  AllReduceOptions options;
  options.op = op;
  options.prescale = prescale;
  options.postscale = postscale;
  return options;
}

}  // namespace

TEST_CASE("a dense all-reduce of an accelerator's tensors gives the host's bits") {
  for (const std::uint64_t seed : test::choose_seeds(3)) {
    CAPTURE(seed);
    const int size = 1 + static_cast<int>(seed % 3);
    std::vector<Call> calls;
    for (const DataType dtype :
         {DataType::float32, DataType::float16, DataType::bfloat16, DataType::float64,
          DataType::int32, DataType::int64, DataType::int16, DataType::int8, DataType::uint8}) {
      calls.push_back({{{"alone", dtype, {1013}, false}}, with_op(ReduceOp::sum), 1});
      calls.push_back({{{"alone", dtype, {1013}, true}}, with_op(ReduceOp::max), 2});
      calls.push_back({{{"a", dtype, {3, 7}, false},
                        {"b", dtype, {0}, true},
                        {"c", dtype, {}, true},
                        {"d", dtype, {517}, true}},
                       with_op(ReduceOp::average, 2.0, 0.5),
                       3});
    }
    calls.push_back({{{"flags", DataType::boolean, {99}, true}}, with_op(ReduceOp::sum), 4});
    check_calls(size, seed, calls);
  }
}

TEST_CASE("ScaleCom on an accelerator gives the host's bits, results and residuals") {
  for (const std::uint64_t seed : test::choose_seeds(6)) {
    CAPTURE(seed);
    std::mt19937 draw(static_cast<unsigned>(seed));
    const int size = 1 + static_cast<int>(seed % 4);
    const auto mode = draw() % 2 == 0 ? CompressionMode::cyclic : CompressionMode::sharded;
    AllReduceOptions options = with_op(draw() % 2 == 0 ? ReduceOp::average : ReduceOp::sum);
    options.compression.mode = mode;
    options.compression.beta = draw() % 2 == 0 ? 1.0 : 0.5;
    // With more than two ranks the order of a sum of rounded values would matter.
    options.compression.values =
        size <= 2 && draw() % 2 == 0 ? DataType::float16 : DataType::float32;
    options.compression.rate = draw() % 2 == 0 ? 7 : 300;
    std::vector<Call> calls;
    for (unsigned step = 0; step < 6; ++step) {
      calls.push_back({{{"w", DataType::float32, {1009}, true},
                        {"half", DataType::float16, {40, 20}, false},
                        {"tiny", DataType::float32, {3}, false},
                        {"none", DataType::float32, {0}, true},
                        {"brain", DataType::bfloat16, {777}, true}},
                       options,
                       step});
    }
    check_calls(size, seed, calls);
  }
}

TEST_CASE("hierarchical ScaleCom on accelerators gives the host's bits") {
  for (const std::uint64_t seed : test::choose_seeds(4)) {
    CAPTURE(seed);
    const std::vector<HostRanks> jobs{{{0, 1, 2}}, {{0, 2}, {1, 3}}, {{0, 1}, {2}}};
    const HostRanks& hosts = jobs[seed % jobs.size()];
    const int size = seed % 3 == 1 ? 4 : 3;
    AllReduceOptions options = with_op(ReduceOp::average, 0.5);
    options.compression.mode = CompressionMode::hierarchical;
    options.compression.rate = 11;
    std::vector<Call> calls;
    for (unsigned step = 0; step < 4; ++step) {
      calls.push_back({{{"w", DataType::float32, {1009}, true},
                        {"half", DataType::float16, {1007}, true},
                        {"brain", DataType::bfloat16, {333}, false}},
                       options,
                       step});
    }
    check_calls(size, seed, calls, hosts);
  }
}

TEST_CASE("a residual follows its tensor from the host to an accelerator and back") {
  constexpr int kSize = 2;
  SessionWorld hosts(kSize);
  DeviceWorld devices(kSize, 5);
  std::vector<std::string> found(kSize);
  test::run_ranks(kSize, [&](int rank) {
    std::string& differs = found[static_cast<std::size_t>(rank)];
    for (unsigned step = 0; step < 6; ++step) {
      Call call{{{"w", DataType::float32, {500}, true}}, {}, step};
      call.options.compression.mode = CompressionMode::sharded;
      call.options.compression.rate = 10;
      // A filter that changes scales what is owed, wherever it is.
      call.options.compression.beta = step < 4 ? 0.5 : 0.25;
      const Results expected = run_on_host(hosts[rank], call);
      const Results got = step % 3 == 2
                              ? run_on_host(devices[rank], call)
                              : run_on_device(devices[rank], devices.accelerator(rank), call);
      if (differs.empty()) differs = difference(call, got, expected);
      if (devices[rank].residual("w").values != hosts[rank].residual("w").values) {
        differs = "residual after step " + std::to_string(step);
      }
    }
    // As from a checkpoint.
    Residual saved = hosts[rank].residual("w");
    for (float& value : saved.values) value += 1.0f;
    hosts[rank].restore_residuals({saved});
    devices[rank].restore_residuals({saved});
    Call call{{{"w", DataType::float32, {500}, true}}, {}, 77};
    call.options.compression.mode = CompressionMode::sharded;
    call.options.compression.rate = 10;
    const Results expected = run_on_host(hosts[rank], call);
    const Results got = run_on_device(devices[rank], devices.accelerator(rank), call);
    if (differs.empty()) differs = difference(call, got, expected);
  });
  for (const std::string& differs : found) CHECK(differs == "");
}

TEST_CASE("what a tensor owes is delivered on an accelerator when it goes dense for good") {
  Call compressed{
      {{"w", DataType::float32, {300}, false}, {"v", DataType::float32, {80}, false}}, {}, 1};
  compressed.options.compression.mode = CompressionMode::sharded;
  compressed.options.compression.rate = 20;
  compressed.options.compression.beta = 0.5;
  const Call dense{compressed.members, {}, 2};
  check_calls(2, 3, {compressed, compressed, dense, dense, dense, compressed, dense, dense});
}

TEST_CASE("a step on an accelerator is void where a postscale overflows in the result alone") {
  for (const auto& [dtype, postscale] :
       {std::pair(DataType::float32, 3e38), std::pair(DataType::float16, 6e4)}) {
    CAPTURE(to_string(dtype));
    Call compressed{{{"w", dtype, {300}, true}, {"v", dtype, {80}, false}}, {}, 1};
    compressed.options.compression.mode = CompressionMode::sharded;
    compressed.options.compression.rate = 20;
    const Call overflows{compressed.members, with_op(ReduceOp::sum, 1.0, postscale), 2};
    const Call average{compressed.members, with_op(ReduceOp::average, 1.0, 0.5), 3};
    const Call dense{compressed.members, with_op(ReduceOp::sum), 4};
    check_calls(2, 4, {compressed, overflows, overflows, average, dense, dense});
  }
}

TEST_CASE(
    "a rank may owe alone, and keeps what it owes over steps with NaN, its own or another's") {
  constexpr int kSize = 2;
  for (const auto& [dtype, is_anothers] :
       {std::pair(DataType::float32, false), std::pair(DataType::bfloat16, false),
        std::pair(DataType::float32, true), std::pair(DataType::bfloat16, true)}) {
    CAPTURE(to_string(dtype), is_anothers);
    test::NcclWorld nccl;
    DeviceWorld devices(kSize, 6, [&](auto& fake) { return nccl.make_api(fake); });
    std::vector<std::string> found(kSize);
    test::run_ranks(kSize, [&](int rank) {
      std::string& differs = found[static_cast<std::size_t>(rank)];
      test::FakeAccelerator& accelerator = devices.accelerator(rank);
      constexpr std::int64_t kCount = 301;  // No multiple of what a fused buffer is cut by.
      if (rank == 0) {
        devices[rank].restore_residuals(
            {{"w", {kCount}, 0, std::vector<float>(kCount, 2.0f), 0.5}});
      }
      const Call call{{{"w", dtype, {kCount}, true}}, with_op(ReduceOp::sum), 0};
      DeviceTensor bad(accelerator, dtype, {kCount});
      // NaN, or on rank 0 zeros.
      const auto byte = is_anothers && rank == 0 ? std::byte{0} : std::byte{0xFF};
      bad.write(Bytes(static_cast<std::size_t>(kCount * size_of(dtype)), byte));
      expect_ok(devices[rank].all_reduce("w", bad.view(), bad.view(), call.options).wait());
      const Results results = run_on_device(devices[rank], accelerator, call);
      for (const ResidualInfo& info : devices[rank].residuals()) {
        for (const float value : devices[rank].residual(info.name).values) {
          if (!std::isfinite(value)) differs = "residual";
        }
      }
      // Rank 0 owes 2 / 0.5 for each element.
      for (std::size_t i = 0; i < kCount; ++i) {
        float sum = 4.0f;
        for (int r = 0; r < kSize; ++r) sum += value_at(input_of(call, 0, r), dtype, i);
        if (value_at(results[0], dtype, i) != sum) differs = "element " + std::to_string(i);
      }
    });
    for (const std::string& differs : found) CHECK(differs == "");
  }
}

TEST_CASE("NaN on one rank gives NaN everywhere on an accelerator, and leaves the residuals") {
  constexpr int kSize = 2;
  DeviceWorld devices(kSize, 11);
  std::vector<int> finite(kSize);
  std::vector<int> is_kept(kSize);
  std::vector<int> others_are_right(kSize);
  AllReduceOptions options;
  options.compression.mode = CompressionMode::sharded;
  options.compression.rate = 8;
  test::run_ranks(kSize, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    const Call call{
        {{"bad", DataType::float32, {400}, true}, {"good", DataType::float32, {64}, true}},
        options,
        1};
    run_on_device(devices[rank], accelerator, call);
    const std::vector<float> before = devices[rank].residual("bad").values;
    DeviceTensor bad(accelerator, DataType::float32, {400});
    DeviceTensor good(accelerator, DataType::float32, {64});
    std::vector<float> gradient(400, 1.0f);
    if (rank == 1) gradient[123] = std::nanf("");
    bad.write(std::as_bytes(std::span(gradient)));
    good.write(std::as_bytes(std::span(gradient).first(64)));
    const Ticket ticket = devices[rank].all_reduce_group(
        {{"bad", bad.view(), bad.view()}, {"good", good.view(), good.view()}}, options);
    expect_ok(ticket.wait());
    const auto count_finite = [&](DeviceTensor& tensor) {
      const Bytes bytes = tensor.read(ticket);
      std::vector<float> values(bytes.size() / sizeof(float));
      std::memcpy(values.data(), bytes.data(), bytes.size());
      return static_cast<int>(
          std::ranges::count_if(values, [](float value) { return std::isfinite(value); }));
    };
    finite[r] = count_finite(bad);
    others_are_right[r] = count_finite(good) == 64;
    is_kept[r] = devices[rank].residual("bad").values == before;
  });
  for (int rank = 0; rank < kSize; ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    CHECK(finite[r] == 0);
    CHECK(is_kept[r]);
    CHECK(others_are_right[r]);
  }
}

TEST_CASE("gathers, exchanges and broadcasts of an accelerator's tensors give the host's bits") {
  for (const std::uint64_t seed : test::choose_seeds(3)) {
    CAPTURE(seed);
    const int size = 1 + static_cast<int>(seed % 3);
    SessionWorld hosts(size);
    DeviceWorld devices(size, seed);
    std::vector<std::string> found(static_cast<std::size_t>(size));
    test::run_ranks(size, [&](int rank) {
      std::string& differs = found[static_cast<std::size_t>(rank)];
      test::FakeAccelerator& accelerator = devices.accelerator(rank);
      const std::int64_t rows = 2 * size + 1;
      const Shape uneven{rank + 2, 5};
      const Shape even{rows, 3};
      std::vector<std::int64_t> splits(static_cast<std::size_t>(size), 2);
      ++splits[static_cast<std::size_t>(rank)];
      for (int kind = 0; kind < 4; ++kind) {
        const Shape& shape = kind == 0 ? uneven : even;
        Bytes data = exact_values(DataType::float32, count_of(shape),
                                  static_cast<unsigned>(kind * 10 + rank));
        const auto submit = [&](Session& session, const TensorView& view) {
          switch (kind) {
            case 0: return session.all_gather("g", view);
            case 1: return session.reduce_scatter("r", view, {ReduceOp::average, 2.0, 1.0});
            case 2: return session.all_to_all("x", view, splits);
            default: return session.broadcast("b", view, size - 1);
          }
        };
        DeviceTensor tensor(accelerator, DataType::float32, shape);
        tensor.write(data);
        const Ticket device = submit(devices[rank], tensor.view());
        const Ticket host = submit(hosts[rank], {data.data(), DataType::float32, shape, {}});
        expect_ok(device.wait());
        expect_ok(host.wait());
        if (kind == 3) {
          if (tensor.read(device) != data) differs = "broadcast";
          continue;
        }
        const TensorView expected = host.output();
        if (device.output().shape != expected.shape) differs = "shape " + std::to_string(kind);
        DeviceTensor copy(accelerator, DataType::float32, expected.shape);
        device.copy_output(copy.view().data, copy.stream());
        const auto* bytes = static_cast<const std::byte*>(expected.data);
        if (copy.read(device) != Bytes(bytes, bytes + expected.bytes())) {
          differs = "kind " + std::to_string(kind);
        }
        if (device.received_splits() != host.received_splits()) differs = "splits";
      }
    });
    for (const std::string& differs : found) CHECK(differs == "");
  }
}

TEST_CASE("several broadcasts of an accelerator's tensors travel as one") {
  constexpr int kSize = 2;
  DeviceWorld devices(kSize, 4);
  std::vector<int> is_right(kSize, 1);
  test::run_ranks(kSize, [&](int rank) {
    std::vector<std::unique_ptr<DeviceTensor>> tensors;
    std::vector<Ticket> tickets;
    for (unsigned i = 0; i < 12; ++i) {
      tensors.push_back(std::make_unique<DeviceTensor>(devices.accelerator(rank), DataType::int32,
                                                       Shape{static_cast<std::int64_t>(i) * 7}));
      tensors.back()->write(
          exact_values(DataType::int32, i * 7, i * 2 + static_cast<unsigned>(rank)));
      tickets.push_back(
          devices[rank].broadcast("p" + std::to_string(i), tensors.back()->view(), 1));
    }
    for (unsigned i = 0; i < 12; ++i) {
      expect_ok(tickets[i].wait());
      if (tensors[i]->read(tickets[i]) != exact_values(DataType::int32, i * 7, i * 2 + 1)) {
        is_right[static_cast<std::size_t>(rank)] = 0;
      }
    }
  });
  CHECK(is_right == std::vector<int>(kSize, 1));
}

TEST_CASE("tensors of the host and of an accelerator may be in flight together") {
  constexpr int kSize = 2;
  constexpr unsigned kSteps = 20;
  DeviceWorld devices(kSize, 9);
  std::vector<std::string> found(kSize);
  test::run_ranks(kSize, [&](int rank) {
    std::vector<float> host(2000, static_cast<float>(rank));
    for (unsigned step = 0; step < kSteps; ++step) {
      std::fill(host.begin(), host.end(), static_cast<float>(rank));
      const TensorView view{host.data(), DataType::float32, {2000}, {}};
      const Ticket on_host = devices[rank].all_reduce("h", view, view, with_op(ReduceOp::sum));
      const Call call{{{"d", DataType::float32, {3000}, true}}, with_op(ReduceOp::sum), step};
      run_on_device(devices[rank], devices.accelerator(rank), call);
      expect_ok(on_host.wait());
      if (host != std::vector<float>(2000, 1.0f)) found[static_cast<std::size_t>(rank)] = "host";
    }
  });
  for (const std::string& differs : found) CHECK(differs == "");
}
