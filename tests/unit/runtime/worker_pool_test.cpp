#include "runtime/worker_pool.hpp"

#include <numeric>
#include <stdexcept>

#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

TEST_CASE("a pool makes every call once, on any number of threads, loop after loop") {
  for (const int threads : {1, 2, 5}) {
    WorkerPool pool(threads);
    for (const std::size_t count : {0, 1, 2, 3, 1000, 7}) {
      std::vector<int> calls(count);
      pool.run(count, [&](std::size_t i) { ++calls[i]; });
      CHECK(calls == std::vector<int>(count, 1));
    }
  }
}

TEST_CASE("a pool's threads work at the same time") {
  WorkerPool pool(3);
  std::atomic<int> arrived{0};
  // Each call waits for the two others: one thread alone would never return.
  pool.run(3, [&](std::size_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
  });
  CHECK(arrived == 3);
}

TEST_CASE("what a call throws reaches the caller after all calls, and the pool goes on") {
  WorkerPool pool(3);
  std::atomic<int> calls{0};
  CHECK_THROWS_WITH(pool.run(100,
                             [&](std::size_t i) {
                               ++calls;
                               if (i == 40) throw std::runtime_error("call 40");
                             }),
                    Contains("call 40"));
  CHECK(calls == 100);
  pool.run(10, [&](std::size_t) { ++calls; });
  CHECK(calls == 110);
}
