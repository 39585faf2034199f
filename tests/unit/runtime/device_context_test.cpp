// What a session's residuals and results share on an accelerator: streams, and memory that is kept.

#include "runtime/device/device_context.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/device/device_residual.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_accelerator.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

constexpr std::uint64_t kSeeds = 20;
constexpr std::size_t kBytes = 16;
const std::vector<float> kOnes(4, 1.0f);
const std::vector<float> kValues{2.0f, 3.0f, 5.0f, 7.0f};

/// A context whose device is entered, with a stream that stands still while it is held.
struct HeldDevice {
  test::FakeAccelerator* fake = nullptr;
  std::shared_ptr<DeviceContext> context;
  std::shared_ptr<void> entered;
  StreamOwner stream;
  bool is_held = true;

  explicit HeldDevice(std::uint64_t seed) {
    auto made = std::make_unique<test::FakeAccelerator>(seed);
    fake = made.get();
    context = std::make_shared<DeviceContext>(std::move(made));
    entered = fake->enter();
    stream = fake->make_stream();
  }
  ~HeldDevice() { release(); }

  void hold(StreamHandle held) {
    fake->enqueue(held, {"held", {}, false, [this] { return !is_held; }});
  }
  void release() {
    is_held = false;
    fake->synchronize();
  }
  /// A wait of the host that is longer ends with an error.
  std::shared_ptr<DeviceResidual> residual(
      const std::vector<float>& values, std::chrono::milliseconds limit = std::chrono::seconds(2)) {
    return std::make_shared<DeviceResidual>(context, static_cast<std::int64_t>(values.size()),
                                            values, DeviceResidual::Bounds{limit, nullptr});
  }
  /// Behind which nothing is enqueued.
  std::shared_ptr<std::byte[]> result(std::size_t bytes) const {
    auto memory = context->allocate_result(bytes, stream.get());
    context->keep_until(*context->record(stream.get()));
    return memory;
  }
  /// A batch that has the residual on the held stream, and leaves `value` everywhere.
  void use(DeviceResidual& residual, float value) {
    fake->make_wait(stream.get(), residual.last_use()->event.get());
    hold(stream.get());
    float* const data = residual.data();
    fake->enqueue(stream.get(), {"a pass", {{data, kBytes}}, false, [data, value] {
                                   std::fill_n(data, kBytes / sizeof(float), value);
                                   return true;
                                 }});
    residual.set_last_use(context->record(stream.get()));
  }
};

}  // namespace

TEST_CASE("a thousand residuals have no stream of their own") {
  HeldDevice device(1);
  const int streams = device.fake->calls()["make_stream"];
  std::vector<std::shared_ptr<DeviceResidual>> residuals;
  for (int i = 0; i < 1000; ++i) residuals.push_back(device.residual({}));
  CHECK(device.fake->calls()["make_stream"] == streams);
}

TEST_CASE("a residual that goes while a batch has it holds up no other's copies") {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    HeldDevice device(seed);
    device.use(*device.residual(kOnes), 8.0f);
    CHECK(device.residual(kValues)->read() == kValues);
  }
}

TEST_CASE("a residual that goes before it is known to be delivered holds up no other's copies") {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    HeldDevice device(seed);
    auto delivered = device.residual(kOnes);
    const float* const mark = delivered->ask_whether_void();
    device.use(*delivered, 8.0f);
    device.fake->copy(const_cast<float*>(mark), delivered->data(), sizeof *mark,
                      device.stream.get());
    delivered->set_last_use(device.context->record(device.stream.get()));
    delivered.reset();
    CHECK(device.residual(kValues)->read() == kValues);
    const AcceleratorMemory other = device.context->allocate_pinned(sizeof *mark);
    CHECK(other.get() != reinterpret_cast<const std::byte*>(mark));
  }
}

TEST_CASE("a residual is scaled behind its last use, and holds up no other's copies") {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    HeldDevice device(seed);
    const auto scaled = device.residual(kOnes);
    device.use(*scaled, 8.0f);
    scaled->scale(1.0, 4.0);
    CHECK(device.residual(kValues)->read() == kValues);
    device.is_held = false;
    CHECK(scaled->read() == std::vector<float>(4, 2.0f));
    scaled->scale(3.0, 1.0);
    CHECK(scaled->read() == std::vector<float>(4, 6.0f));
  }
}

TEST_CASE("copies of a residual that were given up end before its memory does") {
  const std::chrono::milliseconds limit(1);
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    HeldDevice device(seed);
    const std::size_t blocks = device.fake->blocks();
    // Zeros, for which nothing waits.
    auto read = std::make_shared<DeviceResidual>(device.context, 4, std::vector<float>{},
                                                 DeviceResidual::Bounds{limit, nullptr});
    device.hold(device.context->copies());
    CHECK_THROWS_WITH(device.residual(kValues, limit), Contains("a residual's way to"));
    CHECK_THROWS_WITH(read->read(), Contains("a residual's way from"));
    read.reset();
    device.release();
    CHECK(device.fake->blocks() == blocks);
  }
}

TEST_CASE("a result comes while the user has still to copy the last one, which stays until then") {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    HeldDevice device(seed);
    const StreamOwner passes[] = {device.fake->make_stream(), device.fake->make_stream()};
    const auto copied = device.fake->allocate_pinned(kBytes);
    std::memset(copied.get(), 1, kBytes);
    for (const StreamOwner& batch : passes) {
      const auto result = device.context->allocate_result(kBytes, batch.get());
      device.fake->set_zero(result.get(), kBytes, batch.get());
      const auto done = device.context->record(batch.get());
      if (batch == passes[0]) {
        device.hold(device.stream.get());
        device.fake->make_wait(device.stream.get(), done->event.get());
        device.context->copy(copied.get(), result.get(), kBytes, device.stream.get());
        continue;
      }
      device.context->keep_until(*done);
      const Deadline deadline = Deadline::after(std::chrono::seconds(2));
      while (!device.fake->is_done(done->event.get()) && !deadline.has_passed()) {
      }
      CHECK(device.fake->is_done(done->event.get()));
    }
    CHECK(copied.get()[0] == std::byte{1});
    device.release();
    CHECK(copied.get()[0] == std::byte{0});
  }
}

TEST_CASE("zeros that nobody uses go behind what makes them") {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    HeldDevice device(seed);
    const std::size_t blocks = device.fake->blocks();
    device.context->allocate_zeros(kBytes);
    device.fake->synchronize();
    CHECK(device.fake->blocks() == blocks);
  }
}

TEST_CASE("memory is kept for the next result, and given back when it was not used for a while") {
  HeldDevice device(1);
  DeviceContext& context = *device.context;
  const auto kept_after = [&](TimePoint now) {
    context.limit_kept(now);
    device.fake->synchronize();  // Somebody's wait for the device.
    return device.fake->kept();
  };
  const auto period = DeviceContext::kKeptTime;
  device.result(1000);
  const TimePoint start = Clock::now();
  CHECK(kept_after(start) == 1000);
  device.result(400);
  CHECK(device.fake->kept() == 1000);  // Of the same memory.
  CHECK(kept_after(start + period - Clock::duration(1)) == 1000);
  device.fake->set_free(1000);  // Forgets what is kept.
  std::vector<std::shared_ptr<std::byte[]>> results;
  for (int i = 0; i < 3; ++i) results.push_back(device.result(100));
  results.clear();
  CHECK(kept_after(start + period) == 300);
  CHECK(kept_after(start + period * 2) == 0);
}

TEST_CASE("what is kept is given back before memory is lacking, whatever it is wanted for") {
  HeldDevice device(1);
  const StreamHandle stream = device.stream.get();
  const auto allocate = [&](int user, std::size_t bytes) {
    if (user == 0) device.fake->allocate(bytes);
    if (user == 1) device.fake->allocate(bytes, {stream, stream});
    if (user == 2) device.result(bytes);
  };
  for (int user = 0; user < 3; ++user) {
    CAPTURE(user);
    device.fake->set_free(1000);
    {
      const auto one = device.result(400);
      const auto two = device.result(500);
    }
    device.fake->synchronize();
    REQUIRE(device.fake->kept() == 900);
    CHECK_THROWS_WITH(allocate(user, 1001), Contains("1001 bytes (1000 are free)"));
    allocate(user, 1000);
  }
}
