#include "runtime/worker_pool.hpp"

#include <numeric>
#include <stdexcept>
#include <system_error>

#include "runtime/start_thread.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

// What std::thread does where the process may have no more.
struct RefusedThread {
  template <class Body>
  explicit RefusedThread(Body&&) {
    throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
  }
};

}  // namespace

TEST_CASE("a thread that the system refuses is an error that says whose it is, and what helps") {
  try {
    start_thread<RefusedThread>("the session", [] {});
    FAIL("there is no error");
  } catch (const Error& error) {
    CHECK(error.code() == StatusCode::unavailable);
    CHECK_THAT(error.what(), Contains("no thread for the session: ") && Contains("ulimit -u"));
  }
}

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
