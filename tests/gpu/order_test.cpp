// Streams, events and memory of an accelerator: what comes behind what, without the host.

#include <cstring>
#include <vector>

#include "tests/gpu/accelerators.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

constexpr std::size_t kBytes = std::size_t{1} << 22;

/// An accelerator that is entered, and pinned memory of kBytes with `value` in all bytes.
struct Entered {
  std::unique_ptr<Accelerator> accelerator = test::make_accelerator();
  std::shared_ptr<void> entered = accelerator->enter();

  AcceleratorMemory pinned(unsigned char value) const {
    AcceleratorMemory memory = accelerator->allocate_pinned(kBytes);
    std::memset(memory.get(), value, kBytes);
    return memory;
  }
};

bool holds(const AcceleratorMemory& pinned, unsigned char value) {
  const auto expected = std::vector<std::byte>(kBytes, std::byte{value});
  return std::memcmp(pinned.get(), expected.data(), kBytes) == 0;
}

}  // namespace

TEST_CASE("an event orders two streams, and means the last place where it was recorded",
          "[light]") {
  const Entered device;
  Accelerator& accelerator = *device.accelerator;
  const StreamOwner first = accelerator.make_stream();
  const StreamOwner second = accelerator.make_stream();
  const EventOwner event = accelerator.make_event();
  const auto one = device.pinned(1);
  const auto two = device.pinned(2);
  const auto read = device.pinned(0);
  const auto memory = accelerator.allocate(kBytes);
  CHECK(accelerator.is_done(event.get()));
  accelerator.make_wait(second.get(), event.get());  // never recorded: nothing to wait for
  accelerator.record(event.get(), first.get());
  accelerator.copy(memory.get(), one.get(), kBytes, first.get());
  accelerator.copy(memory.get(), two.get(), kBytes, first.get());
  accelerator.record(event.get(), first.get());
  accelerator.make_wait(second.get(), event.get());
  accelerator.copy(read.get(), memory.get(), kBytes, second.get());
  test::finish(accelerator, second.get());
  CHECK(accelerator.is_done(event.get()));
  CHECK(holds(read, 2));
}

TEST_CASE("memory in a stream's order is given back behind its uses, and used again", "[light]") {
  const Entered device;
  Accelerator& accelerator = *device.accelerator;
  const StreamOwner stream = accelerator.make_stream();
  constexpr unsigned char kRounds = 20;
  std::vector<AcceleratorMemory> sources;
  std::vector<AcceleratorMemory> results;
  for (unsigned char round = 0; round < kRounds; ++round) {
    sources.push_back(device.pinned(static_cast<unsigned char>(round + 1)));
    results.push_back(device.pinned(0));
    const auto memory = accelerator.allocate(kBytes, {stream.get(), stream.get()});
    const auto other = accelerator.allocate(kBytes, {stream.get(), stream.get()});
    accelerator.copy(memory.get(), sources.back().get(), kBytes, stream.get());
    accelerator.copy(other.get(), memory.get(), kBytes, stream.get());
    accelerator.set_zero(memory.get(), kBytes, stream.get());
    accelerator.copy(results.back().get(), other.get(), kBytes, stream.get());
  }
  test::finish(accelerator, stream.get());
  for (unsigned char round = 0; round < kRounds; ++round) {
    CHECK(holds(results[round], static_cast<unsigned char>(round + 1)));
  }
}

TEST_CASE("nothing is no work", "[light]") {
  const Entered device;
  Accelerator& accelerator = *device.accelerator;
  const auto none = accelerator.allocate(0);
  const auto none_in_order = accelerator.allocate(0, {});
  accelerator.copy(none.get(), none_in_order.get(), 0, nullptr);
  accelerator.set_zero(none.get(), 0, nullptr);
  const auto steps = accelerator.make_step_table(4, nullptr);
  const StepTensor empty;
  steps->assign({&empty, 1}, nullptr);
  steps->select_and_sweep(nullptr);
  steps->gather_and_sweep(nullptr);
  steps->take_back(nullptr);
  steps->fill_selected(nullptr);
  const auto copies = accelerator.make_copy_table(0, nullptr);
  copies->assign({}, nullptr);
  copies->scale_copy(nullptr);
  test::finish(accelerator, nullptr);
}

TEST_CASE("an accelerator says which it is", "[light]") {
  const Entered device;
  CHECK(device.accelerator->index() == 0);
  CHECK(device.accelerator->description() != "");
  CHECK(device.accelerator->bus_id() != "");
}
