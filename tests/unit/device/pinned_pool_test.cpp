#include "kernels/pinned_pool.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "scalecom/status.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_accelerator.hpp"

using namespace scalecom;

TEST_CASE("pinned memory is lent again once the device has left it") {
  test::FakeAccelerator accelerator(1);
  const auto entered = accelerator.enter();
  const auto stream = accelerator.make_stream();
  bool is_held = true;
  {
    PinnedPool pool(accelerator);
    const auto allocated = accelerator.calls()["allocate_pinned"];
    AcceleratorMemory first = pool.allocate(100, stream.get());
    const std::byte* const place = first.get();
    accelerator.enqueue(stream.get(), {"held", {{place, 100}}, true, [&] { return !is_held; }});
    first.reset();
    CHECK(pool.allocate(100, stream.get()).get() != place);
    is_held = false;
    accelerator.synchronize();
    CHECK(pool.allocate(200, stream.get()).get() != place);
    CHECK(pool.allocate(128, stream.get()).get() == place);
    CHECK(accelerator.calls()["allocate_pinned"] == allocated);
    CHECK(accelerator.calls()["free"] == 0);
    pool.allocate(20 << 20, stream.get());
    CHECK(accelerator.calls()["allocate_pinned"] == allocated + 1);
  }
  CHECK(accelerator.blocks() == 0);
}

TEST_CASE("a pool whose device is gone says so once") {
  test::FakeAccelerator accelerator(
      1, 0, [](const std::string& misuse) { throw Error(StatusCode::unavailable, misuse); });
  const auto entered = accelerator.enter();
  auto stream = accelerator.make_stream();
  PinnedPool pool(accelerator);
  std::vector<AcceleratorMemory> lent;
  for (int i = 0; i < 3; ++i) lent.push_back(pool.allocate(8, stream.get()));
  stream.reset();
  const test::CapturedStderr captured;
  lent.clear();
  const std::string lines = captured.text();
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 1);
}

TEST_CASE("a pool ends without freeing what the device holds") {
  test::FakeAccelerator accelerator(1);
  const auto entered = accelerator.enter();
  const auto stream = accelerator.make_stream();
  {
    PinnedPool pool(accelerator);
    const AcceleratorMemory lent = pool.allocate(8, stream.get());
    accelerator.enqueue(stream.get(), {"held", {{lent.get(), 8}}, true, [] { return false; }});
  }
  CHECK(accelerator.blocks() == 1);
}
