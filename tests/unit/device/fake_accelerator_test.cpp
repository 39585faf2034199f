// The fake accelerator is as free as a device, and notices what would go wrong on one.

#include "tests/support/fake_accelerator.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "kernels/pinned_pool.hpp"
#include "tests/support/seeds.hpp"

using namespace scalecom;
using test::FakeAccelerator;

namespace {

constexpr std::uint64_t kSeeds = 50;

/// An accelerator that collects misuse, and is entered.
struct Watched {
  std::vector<std::string> misuse;
  FakeAccelerator accelerator;
  std::shared_ptr<void> entered = accelerator.enter();

  explicit Watched(std::uint64_t seed = 1)
      : accelerator(seed, 0, [this](const std::string& text) { misuse.push_back(text); }) {}

  bool has_misuse(const std::string& words) const {
    return std::any_of(misuse.begin(), misuse.end(), [&](const std::string& text) {
      return text.find(words) != std::string::npos;
    });
  }
};

/// Appends `value` to `log` when the stream comes to it.
test::Operation note(std::vector<int>& log, int value) {
  return {"note", {}, false, [&log, value] {
            log.push_back(value);
            return true;
          }};
}

std::int64_t read(const AcceleratorMemory& pinned) {
  std::int64_t value = 0;
  std::memcpy(&value, pinned.get(), sizeof(value));
  return value;
}

}  // namespace

TEST_CASE("a stream keeps its order, and streams overtake each other in some seed") {
  std::set<std::vector<int>> orders;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    Watched w(seed);
    const auto other = w.accelerator.make_stream();
    std::vector<int> log;
    for (int i = 0; i < 4; ++i) {
      w.accelerator.enqueue(nullptr, note(log, i));
      w.accelerator.enqueue(other.get(), note(log, 10 + i));
    }
    CHECK(log.empty());  // Nothing happens by enqueueing.
    w.accelerator.synchronize();
    REQUIRE(log.size() == 8);
    for (const int first : {0, 10}) {
      std::vector<int> own;
      for (const int value : log) {
        if (value / 10 == first / 10) own.push_back(value - first);
      }
      CHECK(own == std::vector<int>{0, 1, 2, 3});
    }
    orders.insert(log);
    CHECK(w.misuse.empty());
  }
  CHECK(orders.size() > 10);
}

TEST_CASE("an event holds what was enqueued before its last record, and a wait keeps that place") {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    CAPTURE(seed);
    Watched w(seed);
    const auto first = w.accelerator.make_stream();
    const auto second = w.accelerator.make_stream();
    const auto event = w.accelerator.make_event();
    std::vector<int> log;
    CHECK(w.accelerator.is_done(event.get()));  // never recorded
    w.accelerator.make_wait(second.get(), event.get());
    w.accelerator.enqueue(first.get(), note(log, 1));
    w.accelerator.record(event.get(), first.get());
    w.accelerator.make_wait(second.get(), event.get());
    w.accelerator.enqueue(second.get(), note(log, 2));
    // The record below waits for what waits for the one above: with the new place it would hang.
    w.accelerator.record(event.get(), second.get());
    w.accelerator.make_wait(first.get(), event.get());
    w.accelerator.enqueue(first.get(), note(log, 3));
    CHECK(log.empty());
    while (!w.accelerator.is_done(event.get())) CHECK(log.size() < 2);
    CHECK(log.size() >= 2);
    w.accelerator.synchronize();
    CHECK(log == std::vector<int>{1, 2, 3});
    CHECK(w.misuse.empty());
  }
}

TEST_CASE("a forgotten wait between streams gives a wrong result in some seed, a wait in none") {
  int wrong_without = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    for (const bool waits : {false, true}) {
      CAPTURE(seed, waits);
      Watched w(seed);
      const auto first = w.accelerator.make_stream();
      const auto second = w.accelerator.make_stream();
      const auto event = w.accelerator.make_event();
      const auto source = w.accelerator.allocate_pinned(8);
      const auto target = w.accelerator.allocate_pinned(8);
      const auto memory = w.accelerator.allocate(8);
      const std::int64_t value = 42;
      std::memcpy(source.get(), &value, sizeof(value));
      w.accelerator.copy(memory.get(), source.get(), 8, first.get());
      w.accelerator.record(event.get(), first.get());
      if (waits) w.accelerator.make_wait(second.get(), event.get());
      w.accelerator.copy(target.get(), memory.get(), 8, second.get());
      w.accelerator.synchronize();
      const bool is_right = read(target) == value;
      if (waits) CHECK(is_right);
      wrong_without += !waits && !is_right ? 1 : 0;
    }
  }
  CHECK(wrong_without > 5);
  CHECK(wrong_without < static_cast<int>(kSeeds) - 5);
}

TEST_CASE("the host that reads without asking for the event sees what was there before") {
  Watched w;
  const auto target = w.accelerator.allocate_pinned(8);
  const auto event = w.accelerator.make_event();
  const auto memory = w.accelerator.allocate(8);
  w.accelerator.set_zero(memory.get(), 8, nullptr);
  w.accelerator.copy(target.get(), memory.get(), 8, nullptr);
  w.accelerator.record(event.get(), nullptr);
  CHECK(read(target) == -1);  // the pattern of fresh memory
  while (!w.accelerator.is_done(event.get())) {
  }
  CHECK(read(target) == 0);
}

TEST_CASE("memory in a stream's order is there from its place in the stream to its end") {
  int too_early = 0;
  int too_late = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Watched right(seed);
    {
      const auto memory = right.accelerator.allocate(8, {});
      right.accelerator.set_zero(memory.get(), 8, nullptr);
    }
    CHECK(right.accelerator.blocks() == 1);  // The stream has not come to it.
    right.accelerator.synchronize();
    CHECK(right.accelerator.blocks() == 0);
    CHECK(right.misuse.empty());

    Watched wrong(seed);
    const auto other = wrong.accelerator.make_stream();
    {
      const auto memory = wrong.accelerator.allocate(8, {});
      wrong.accelerator.set_zero(memory.get(), 8, other.get());
    }
    wrong.accelerator.synchronize();
    too_early += wrong.has_misuse("before the stream has allocated them") ? 1 : 0;
    too_late += wrong.has_misuse("no memory of the accelerator") ? 1 : 0;
  }
  CHECK(too_early > 0);
  CHECK(too_late > 0);
}

TEST_CASE("misuse is noticed") {
  Watched w;
  const auto memory = w.accelerator.allocate(64);
  std::vector<std::byte> foreign(64);
  SECTION("memory that is not the accelerator's") {
    w.accelerator.copy(memory.get(), foreign.data(), 64, nullptr);
    w.accelerator.synchronize();
    CHECK(w.has_misuse("copy uses 64 bytes that are no memory of the accelerator"));
  }
  SECTION("more than was allocated") {
    w.accelerator.set_zero(memory.get() + 32, 33, nullptr);
    w.accelerator.synchronize();
    CHECK(w.has_misuse("set_zero uses 33 bytes"));
  }
  SECTION("a kernel on pinned memory") {
    const auto pinned = w.accelerator.allocate_pinned(64);
    w.accelerator.set_zero(pinned.get(), 64, nullptr);
    w.accelerator.synchronize();
    CHECK(w.has_misuse("pinned host memory in a kernel"));
  }
  SECTION("freeing what queued work uses") {
    auto pinned = w.accelerator.allocate_pinned(64);
    w.accelerator.copy(memory.get(), pinned.get(), 64, nullptr);
    pinned.reset();
    CHECK(w.has_misuse("copy still uses memory that is freed"));
  }
  SECTION("a call without enter()") {
    w.entered.reset();
    w.accelerator.set_zero(memory.get(), 64, nullptr);
    CHECK(w.has_misuse("without enter()"));
  }
  SECTION("a stream and an event that are gone") {
    auto stream = w.accelerator.make_stream();
    const StreamHandle gone = stream.get();
    stream.reset();
    w.accelerator.set_zero(memory.get(), 64, gone);
    CHECK(w.has_misuse("a stream that is gone"));
  }
  SECTION("a stream that stands still") {
    w.accelerator.enqueue(nullptr, {"never", {}, false, [] { return false; }});
    w.accelerator.synchronize(std::chrono::seconds(0));
    CHECK(w.has_misuse("streams stand still"));
  }
}

TEST_CASE("a table keeps the rows that the stream has uploaded") {
  Watched w;
  const auto other = w.accelerator.make_stream();
  const auto table = w.accelerator.make_copy_table(2, nullptr);
  const auto from = w.accelerator.allocate(16);
  const auto to = w.accelerator.allocate_pinned(16);
  const auto memory = w.accelerator.allocate(16);
  w.accelerator.set_zero(from.get(), 16, nullptr);
  const CopyTensor tensor{memory.get(), from.get(), 4, DataType::int32, {}};
  table->assign({&tensor, 1}, nullptr);
  table->assign({&tensor, 1}, nullptr);
  CHECK(w.has_misuse("assign() to a table that queued operations use"));
  w.accelerator.synchronize();
  table->scale_copy(nullptr);
  w.accelerator.copy(to.get(), memory.get(), 16, nullptr);
  CHECK(read(to) == -1);
  w.accelerator.synchronize();
  CHECK(read(to) == 0);
}

TEST_CASE("a table ends in the order of its stream, but not before another's operations") {
  Watched w;
  const auto other = w.accelerator.make_stream();
  PinnedPool pool(w.accelerator);
  const auto memory = w.accelerator.allocate(16);
  const CopyTensor tensor{memory.get(), memory.get(), 4, DataType::int32, {}};
  const auto end_table = [&](StreamHandle used_on) {
    const auto table = w.accelerator.make_copy_table(1, nullptr, &pool);
    table->assign({&tensor, 1}, nullptr);
    w.accelerator.synchronize();
    table->scale_copy(used_on);
  };
  end_table(nullptr);
  CHECK(w.misuse.empty());
  end_table(other.get());
  CHECK(w.has_misuse("a table ends while queued operations of another stream use it"));
  w.accelerator.synchronize();
}

TEST_CASE("what a closed stream has left is done, also from several threads") {
  Watched w;
  constexpr int kThreads = 4;
  constexpr int kOperations = 200;
  int done = 0;  // by operations, one at a time
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      const auto entered = w.accelerator.enter();
      const auto stream = w.accelerator.make_stream();
      for (int j = 0; j < kOperations; ++j) {
        w.accelerator.enqueue(stream.get(), {"count", {}, false, [&done] {
                                               ++done;
                                               return true;
                                             }});
        w.accelerator.advance();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  w.accelerator.synchronize();
  CHECK(done == kThreads * kOperations);
  CHECK(w.misuse.empty());
}
