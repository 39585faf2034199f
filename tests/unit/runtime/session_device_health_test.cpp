// Health figures and guards of an accelerator's tensors, against the host's.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <latch>
#include <random>
#include <string>

#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/temporary_folder.hpp"
#include "tests/unit/device/nccl_world.hpp"

using namespace scalecom;
using test::DeviceTensor;
using test::DeviceWorld;
using test::expect_ok;
using test::SessionWorld;

namespace {

Config every(std::int64_t steps) {
  Config config;
  config.health_steps = steps;
  return config;
}

std::vector<float> normal(std::size_t count, unsigned seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

/// What all ranks have in common is drowned by noise that cancels between even and odd ranks.
std::vector<float> opposed(std::size_t count, int rank, unsigned step) {
  std::vector<float> values = normal(count, 2 * step, 0.01f);
  const std::vector<float> noise = normal(count, 2 * step + 1);
  for (std::size_t i = 0; i < count; ++i) values[i] += rank % 2 == 0 ? noise[i] : -noise[i];
  return values;
}

AllReduceOptions compressed(CompressionMode mode, std::int64_t rate, double beta,
                            double guard = 0.0) {
  AllReduceOptions options;
  options.op = ReduceOp::sum;
  options.compression = {mode, rate, beta, 0, DataType::float32, guard};
  return options;
}

/// In place, as a group of one tensor a name; returns the results.
using Tensors = std::vector<std::vector<float>>;

std::string name_of(std::size_t i) { return "w" + std::to_string(i); }

Tensors run_on_device(DeviceWorld& world, int rank, const Tensors& gradients,
                      const AllReduceOptions& options) {
  std::vector<std::unique_ptr<DeviceTensor>> tensors;
  std::vector<GroupMember> group;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const Shape shape{static_cast<std::int64_t>(gradients[i].size())};
    tensors.push_back(
        std::make_unique<DeviceTensor>(world.accelerator(rank), DataType::float32, shape));
    tensors[i]->write(std::as_bytes(std::span(gradients[i])));
    group.push_back({name_of(i), tensors[i]->view(), tensors[i]->view()});
  }
  const Ticket ticket = world[rank].all_reduce_group(std::move(group), options);
  expect_ok(ticket.wait());
  Tensors results;
  for (const auto& tensor : tensors) {
    const std::vector<std::byte> bytes = tensor->read(ticket);
    std::vector<float>& result = results.emplace_back(bytes.size() / sizeof(float));
    if (!bytes.empty()) std::memcpy(result.data(), bytes.data(), bytes.size());
  }
  return results;
}

Tensors run_on_host(Session& session, Tensors gradients, const AllReduceOptions& options) {
  std::vector<GroupMember> group;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    group.push_back({name_of(i), test::view_of(gradients[i]), test::view_of(gradients[i])});
  }
  expect_ok(session.all_reduce_group(std::move(group), options).wait());
  return gradients;
}

bool is_near(double a, double b) { return a == b || std::abs(a - b) <= 1e-6 * std::abs(b); }

/// "" where the figures are the same: counts to the bit, ratios but for their last bits.
std::string difference(const std::vector<CompressionHealth>& device,
                       const std::vector<CompressionHealth>& host) {
  if (device.size() != host.size()) return std::to_string(device.size()) + " tensors";
  for (std::size_t i = 0; i < host.size(); ++i) {
    const CompressionHealth& a = device[i];
    const CompressionHealth& b = host[i];
    if (a.name != b.name || a.step != b.step) return a.name + " at " + std::to_string(a.step);
    if (a.sampled_chunks != b.sampled_chunks || a.hamming_distance != b.hamming_distance ||
        a.chunk_overlap != b.chunk_overlap || a.byte_true_rate != b.byte_true_rate ||
        a.rate != b.rate || a.elements != b.elements) {
      return "the choice of " + a.name;
    }
    if (!is_near(a.relative_error, b.relative_error) ||
        !is_near(a.mean_relative_error, b.mean_relative_error) ||
        !is_near(a.residual_to_gradient, b.residual_to_gradient) ||
        !is_near(a.mean_residual_to_gradient, b.mean_residual_to_gradient)) {
      return "a figure of " + a.name;
    }
  }
  return "";
}

void check_same(const std::vector<std::string>& found) {
  for (const std::string& differs : found) CHECK(differs == "");
}

/// Nothing of it is done while it is held.
class HeldTransport final : public Transport {
 public:
  HeldTransport(std::unique_ptr<Transport> inner, const std::atomic<bool>& is_held)
      : inner_(std::move(inner)), is_held_(is_held) {}
  int rank() const noexcept override { return inner_->rank(); }
  int size() const noexcept override { return inner_->size(); }
  std::string_view name() const noexcept override { return inner_->name(); }
  TransportRequest post_send(std::span<const std::byte> bytes, int peer, int tag) override {
    return inner_->post_send(bytes, peer, tag);
  }
  TransportRequest post_receive(std::span<std::byte> bytes, int peer, int tag) override {
    return inner_->post_receive(bytes, peer, tag);
  }
  bool test(TransportRequest& request) override {
    return request.is_null() || (!is_held_ && inner_->test(request));
  }
  void cancel_all() noexcept override { inner_->cancel_all(); }
  TransportCounters counters() const noexcept override { return inner_->counters(); }

 private:
  const std::unique_ptr<Transport> inner_;
  const std::atomic<bool>& is_held_;
};

template <class Condition>
void wait_for(const char* what, const Condition& is_there) {
  const WaitContext context{Deadline::after(std::chrono::seconds(15)), nullptr};
  WaitLoop loop(context);
  while (!is_there()) loop.pause(what);
}

/// An agreement a tensor, of which each rank tells in a file of the folder.
Config telling_agreements(const std::string& folder) {
  Config config = every(1);
  config.fusion_threshold_bytes = 1;
  config.collective_timeout_s = 20.0;
  config.timeline = folder + "/{rank}";
  config.timeline_mark_cycles = true;
  return config;
}

/// Until the rank knows of so many agreements, whether they can be carried out or not.
void wait_for_agreements(const std::string& folder, int rank, int count) {
  wait_for("agreements", [&] {
    std::ifstream file(folder + "/" + std::to_string(rank));
    int known = 0;
    for (std::string line; std::getline(file, line);) {
      known += line.find("CYCLE_START") == std::string::npos ? 0 : 1;
    }
    return known >= count;
  });
}

std::int64_t travelled(const std::vector<float>& result) {
  return std::ranges::count_if(result, [](float value) { return value != 0.0f; });
}

}  // namespace

TEST_CASE("health of an accelerator's tensors is the host's") {
  for (const std::uint64_t seed : test::choose_seeds(6)) {
    CAPTURE(seed);
    const int size = 1 + static_cast<int>(seed % 3);
    std::mt19937 draw(static_cast<unsigned>(seed));
    AllReduceOptions options =
        compressed(draw() % 2 == 0 ? CompressionMode::cyclic : CompressionMode::sharded,
                   draw() % 2 == 0 ? 7 : 300, draw() % 2 == 0 ? 1.0 : 0.3);
    options.prescale = 0.5;
    if (size <= 2 && draw() % 2 == 0) options.compression.values = DataType::bfloat16;
    test::NcclWorld nccl;
    DeviceWorld::LoadNccl load;
    if (seed % 2 == 0) load = [&](auto& accelerator) { return nccl.make_api(accelerator); };
    SessionWorld hosts(size, every(3));
    DeviceWorld devices(size, seed, load, nullptr, every(3));
    std::vector<std::string> found(static_cast<std::size_t>(size));
    test::run_ranks(size, [&](int rank) {
      std::string& differs = found[static_cast<std::size_t>(rank)];
      for (unsigned step = 0; step < 7; ++step) {
        Tensors gradients;
        for (const std::size_t count : {10'007u, 3u, 0u, 900u}) {
          gradients.push_back(normal(count, step * 100 +
                                                static_cast<unsigned>(gradients.size() * 10) +
                                                static_cast<unsigned>(rank)));
        }
        const Tensors host = run_on_host(hosts[rank], gradients, options);
        const Tensors device = run_on_device(devices, rank, gradients, options);
        if (differs.empty() && host != device) differs = "results";
        const auto health = hosts[rank].compression_health();
        if (health.size() != (step < 2 ? 0u : 4u)) differs = "no samples";
        if (differs.empty()) differs = difference(devices[rank].compression_health(), health);
      }
    });
    check_same(found);
  }
}

TEST_CASE("hierarchical ScaleCom's health on accelerators is the host's") {
  const HostRanks places{{0, 1}, {2}};
  test::HostsWorld host_places(places);
  test::HostsWorld device_places(places);
  SessionWorld hosts(3, every(2),
                     [&](int rank, SessionParts& parts) { host_places.equip(rank, parts); });
  DeviceWorld devices(3, 8, {}, &device_places, every(2));
  const AllReduceOptions options = compressed(CompressionMode::hierarchical, 11, 0.5);
  std::vector<std::string> found(3);
  test::run_ranks(3, [&](int rank) {
    std::string& differs = found[static_cast<std::size_t>(rank)];
    for (unsigned step = 0; step < 4; ++step) {
      const Tensors gradients{normal(3001, 10 * step + static_cast<unsigned>(rank))};
      run_on_host(hosts[rank], gradients, options);
      run_on_device(devices, rank, gradients, options);
      const auto health = hosts[rank].compression_health();
      if (differs.empty()) differs = difference(devices[rank].compression_health(), health);
    }
  });
  check_same(found);
}

TEST_CASE(
    "a step with NaN on an accelerator has no figures, and those of other tensors are right") {
  SessionWorld hosts(2, every(1));
  DeviceWorld devices(2, 9, {}, nullptr, every(1));
  const AllReduceOptions options = compressed(CompressionMode::sharded, 10, 0.5);
  std::vector<std::string> found(2);
  std::vector<std::int64_t> last(2);
  test::run_ranks(2, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    for (unsigned step = 0; step < 4; ++step) {
      Tensors gradients{normal(1000, 10 * step + static_cast<unsigned>(rank)),
                        normal(500, 10 * step + 5 + static_cast<unsigned>(rank))};
      if (step == 3 && rank == 1) gradients[0][7] = std::nanf("");
      run_on_host(hosts[rank], gradients, options);
      run_on_device(devices, rank, gradients, options);
    }
    const auto health = devices[rank].compression_health();
    last[r] = health.at(0).step;
    found[r] = difference(health, hosts[rank].compression_health());
  });
  CHECK(last == std::vector<std::int64_t>{2, 2});
  check_same(found);
}

TEST_CASE("a guard of an accelerator's tensor halves its chunks in the same step on every rank") {
  test::CapturedStderr captured;
  for (const std::uint64_t seed : test::choose_seeds(3)) {
    CAPTURE(seed);
    constexpr int kSize = 2;
    constexpr std::size_t kCount = 10'000;
    constexpr unsigned kSteps = 75;
    test::NcclWorld nccl;
    DeviceWorld::LoadNccl load;
    if (seed % 2 == 0) load = [&](auto& accelerator) { return nccl.make_api(accelerator); };
    DeviceWorld devices(kSize, seed, load, nullptr, every(1));
    std::vector<std::vector<std::int64_t>> counts(kSize);
    std::vector<std::int64_t> halvings(kSize);
    test::run_ranks(kSize, [&](int rank) {
      const auto r = static_cast<std::size_t>(rank);
      const AllReduceOptions options = compressed(CompressionMode::sharded, 100, 1.0, 0.2);
      for (unsigned step = 0; step < kSteps; ++step) {
        const Tensors gradients{opposed(kCount, rank, step)};
        counts[r].push_back(travelled(run_on_device(devices, rank, gradients, options)[0]));
      }
      halvings[r] = devices[rank].stats().guard_halvings;
    });
    CHECK(counts[0] == counts[1]);
    CHECK(counts[0][0] == 100);
    // 12 chunks a sample, so the third is judged, and changes the tenth step from there.
    CHECK(counts[0][11] == 100);
    CHECK(counts[0][12] > 150);
    CHECK(counts[0].back() > 9'900);
    CHECK(halvings == std::vector<std::int64_t>{6, 6});
  }
}

TEST_CASE("a guard goes by samples in their order where a tensor leaves its accelerator") {
  test::CapturedStderr captured;
  constexpr int kSize = 2;
  DeviceWorld devices(kSize, 12, {}, nullptr, every(1));
  std::vector<std::vector<std::int64_t>> counts(kSize);
  test::run_ranks(kSize, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    const AllReduceOptions options = compressed(CompressionMode::cyclic, 50, 1.0, 0.2);
    for (unsigned step = 0; step < 60; ++step) {
      const Tensors gradients{opposed(4000, rank, step)};
      const Tensors results = step % 3 == 1 ? run_on_host(devices[rank], gradients, options)
                                            : run_on_device(devices, rank, gradients, options);
      counts[r].push_back(travelled(results[0]));
    }
  });
  CHECK(counts[0] == counts[1]);
  CHECK(counts[0].front() == 80);
  CHECK(counts[0].back() > 80);
}

TEST_CASE("what is under way goes on while a guard waits for an accelerator's figures") {
  for (const bool has_joined : {false, true}) {
    CAPTURE(has_joined);
    constexpr int kSize = 2;
    const test::TemporaryFolder folder;
    const Config config = telling_agreements(folder.path());
    std::atomic<bool> is_held = false;
    test::HostsWorld places({{0}, {1}}, [&](auto inner) {
      return std::make_unique<HeldTransport>(std::move(inner), is_held);
    });
    test::NcclWorld nccl;
    DeviceWorld devices(
        kSize, 21, [&](auto& accelerator) { return nccl.make_api(accelerator); }, &places, config);
    std::atomic<bool> is_open{has_joined};
    std::latch both_are_there(kSize);
    std::latch both_wait(kSize);
    std::atomic<int> reduced = 0;
    const AllReduceOptions options = compressed(CompressionMode::sharded, 100, 1.0, 0.2);
    AllReduceOptions plain;
    plain.op = ReduceOp::sum;
    test::run_ranks(kSize, [&](int rank) {
      Session& session = devices[rank];
      test::FakeAccelerator& accelerator = devices.accelerator(rank);
      run_on_device(devices, rank, {normal(1000, 1)}, options);
      if (rank == 1 && has_joined) return expect_ok(session.join(rank).wait());
      std::vector<float> host(1000);
      DeviceTensor tensor(accelerator, DataType::float32, {1000});
      std::vector<float> next = normal(1000, 2);
      tensor.write(std::as_bytes(std::span(next)));
      {
        const auto entered = accelerator.enter();
        accelerator.enqueue(tensor.stream(), {"gate", {}, false, [&] { return is_open.load(); }});
      }
      if (!has_joined) {
        both_are_there.arrive_and_wait();
        is_held = true;
      }
      std::vector<Ticket> tickets;
      const auto reduce_on_host = [&] {
        tickets.push_back(
            session.all_reduce("host", test::view_of(host), test::view_of(host), plain));
      };
      // A rank that has joined does it before the step; else it is under way beside the guard, as
      // the third would not be agreed on.
      if (has_joined) reduce_on_host();
      const Ticket on_device =
          session.all_reduce(name_of(0), tensor.view(), tensor.view(), options);
      expect_ok(on_device.wait());
      if (!has_joined) reduce_on_host();
      tickets.push_back(
          session.all_reduce(name_of(0), test::view_of(next), test::view_of(next), options));
      if (!has_joined) {
        wait_for_agreements(folder.path(), rank, 4);  // For the last one's guard nothing is there.
        both_wait.arrive_and_wait();
        is_held = false;
      }
      expect_ok(tickets[0].wait());
      ++reduced;
      // On both ranks: what has come before it was posted is not held.
      wait_for("the other rank's all-reduce", [&] { return reduced >= (has_joined ? 1 : kSize); });
      is_open = true;
      expect_ok(tickets[1].wait());
      tensor.read(on_device);
      if (has_joined) expect_ok(session.join(rank).wait());
    });
    CHECK(is_open);
  }
}

TEST_CASE("the file has an accelerator's last sample when the session has ended") {
  const test::TemporaryFolder folder;
  Config config = every(2);
  config.health_file = folder.path() + "/health.csv";
  {
    DeviceWorld devices(1, 3, {}, nullptr, config);
    for (unsigned step = 0; step < 4; ++step) {
      run_on_device(devices, 0, {normal(900, step)}, compressed(CompressionMode::cyclic, 9, 0.5));
    }
  }
  std::ifstream file(config.health_file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line.substr(0, 5));
  CHECK(lines == std::vector<std::string>{"step,", "1,w0,", "3,w0,"});
}

TEST_CASE("a larger sample than those before is enqueued behind a collective that goes on") {
  test::NcclWorld nccl;
  DeviceWorld devices(
      2, 4, [&](auto& accelerator) { return nccl.make_api(accelerator); }, nullptr, every(1));
  std::latch both_have_it(2);
  std::atomic<bool> is_held = true;
  std::vector<std::size_t> figures(2);
  std::vector<int> allocated(2);
  test::run_ranks(2, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    test::FakeAccelerator& accelerator = devices.accelerator(rank);
    run_on_device(devices, rank, {normal(300, 1)}, compressed(CompressionMode::sharded, 10, 0.5));
    devices[rank].compression_health();
    DeviceTensor large(accelerator, DataType::float32, {100'000});
    const std::vector<float> values = normal(100'000, 2);
    large.write(std::as_bytes(std::span(values)));
    const auto before = accelerator.calls();
    if (rank == 1) {
      const auto entered = accelerator.enter();
      accelerator.enqueue(large.stream(), {"held", {}, false, [&] { return !is_held; }});
    }
    const Ticket ticket = devices[rank].all_reduce("large", large.view(), large.view(),
                                                   compressed(CompressionMode::sharded, 2000, 0.5));
    expect_ok(ticket.wait());
    allocated[r] = accelerator.calls()["allocate_pinned"] - before.at("allocate_pinned");
    both_have_it.arrive_and_wait();
    is_held = false;
    large.read(ticket);
    figures[r] = devices[rank].compression_health().size();
  });
  CHECK(figures == std::vector<std::size_t>{2, 2});
  CHECK(allocated == std::vector<int>{0, 0});
}
