// Several threads of a rank submit and wait at once, and take turns at driving its session.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using test::SessionWorld;
using test::view_of;

namespace {

// One thread of one rank: blocking calls in a loop; every third one is compressed, which only the
// session's own thread carries out. Returns how many results were wrong.
int call_in_a_loop(Session& session, int thread, int calls) {
  const int size = session.topology().size;
  int wrong = 0;
  for (int call = 0; call < calls; ++call) {
    std::vector<float> values(call % 2 == 0 ? 1 : 3'000, static_cast<float>(call));
    AllReduceOptions options;
    options.op = ReduceOp::sum;
    if (call % 3 == 2) options.compression = {CompressionMode::cyclic, 1, 1.0, 0};
    const std::string name = std::to_string(thread) + "." + std::to_string(call % 6);
    const Status status =
        session.all_reduce(name, view_of(values), view_of(values), options).wait();
    if (!status.is_ok()) throw std::runtime_error(status.message());
    if (values.back() != static_cast<float>(call * size)) ++wrong;
  }
  return wrong;
}

// Those of this process by that name. One that has been joined may still be listed.
std::set<std::string> session_threads() {
  std::set<std::string> found;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name == "scalecom") found.insert(task.path());
  }
  return found;
}

}  // namespace

TEST_CASE("threads of a rank that wait at once all get their results") {
  const int size = GENERATE(1, 2, 3);
  constexpr int kThreads = 3;
  SessionWorld world(size);
  std::atomic<int> wrong{0};
  test::run_ranks(size, [&](int rank) {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] { wrong += call_in_a_loop(world[rank], thread, 60); });
    }
  });
  CHECK(wrong == 0);
}

TEST_CASE("a submit that nobody waits for is carried out, also right after a blocking call") {
  const int size = 2;
  SessionWorld world(size);
  std::atomic<int> late{0};
  test::run_ranks(size, [&](int rank) {
    std::vector<float> values{1.0f};
    std::vector<float> others{2.0f};
    for (int step = 0; step < 50; ++step) {
      world[rank].all_reduce("waited", view_of(values), view_of(values), {}).wait();
      const Ticket ticket = world[rank].all_reduce("polled", view_of(others), view_of(others), {});
      const Deadline deadline = Deadline::after(std::chrono::seconds(10));
      while (!ticket.is_ready() && !deadline.has_passed()) std::this_thread::yield();
      if (!ticket.is_ready()) ++late;
    }
  });
  CHECK(late == 0);
}

TEST_CASE("a session's thread has a name, by which its processor time is found") {
  const std::set<std::string> before = session_threads();
  SessionWorld world(1);
  int added = 0;
  for (const std::string& task : session_threads()) added += before.contains(task) ? 0 : 1;
  CHECK(added == 1);
}

TEST_CASE("a wait that gives up leaves the work to others") {
  const int size = 2;
  SessionWorld world(size);
  std::atomic<int> failed{0};
  std::atomic<bool> may_submit{false};
  test::run_ranks(size, [&](int rank) {
    std::vector<float> values(100'000, 1.0f);
    while (rank == 1 && !may_submit) std::this_thread::yield();
    const Ticket ticket = world[rank].all_reduce("a", view_of(values), view_of(values), {});
    if (rank == 0) {
      const auto limit = std::chrono::milliseconds(5);
      if (ticket.wait_for(limit).code() != StatusCode::timed_out) ++failed;
      may_submit = true;
    }
    if (!ticket.wait_for(std::chrono::seconds(10)).is_ok()) ++failed;
  });
  CHECK(failed == 0);
}
