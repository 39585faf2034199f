// The thread that makes calls which block.

#include "runtime/device/posting_thread.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "device/nccl/communicator.hpp"
#include "scalecom/status.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/lost_rank.hpp"

using namespace scalecom;
using namespace std::chrono_literals;
using Catch::Contains;
using device::nccl::Result;

namespace {

WaitContext patience() { return {Deadline::after(20s), nullptr}; }

std::shared_ptr<void> enter_nothing() { return nullptr; }
constexpr PostingThread::Patience kShort{1ms, 20ms};

// A call that comes back when the test says so. Shared with it, as real calls share what they use.
struct Gate {
  std::promise<void> opened;
  std::promise<void> entered;
  std::promise<void> left;
};

PostingThread::Call blocking_call(const std::shared_ptr<Gate>& gate) {
  return [gate] {
    gate->entered.set_value();
    gate->opened.get_future().wait();
    gate->left.set_value();
    return Result::remote_error;
  };
}

Result result_of(PostingThread& thread) {
  const WaitContext context = patience();
  WaitLoop loop(context);
  for (;;) {
    if (const auto result = thread.result()) return *result;
    loop.pause("a call");
  }
}

Result run(PostingThread& thread, const PostingThread::Call& call) {
  thread.start(call);
  return result_of(thread);
}

std::string message_of_run(PostingThread& thread, const PostingThread::Call& call) {
  try {
    run(thread, call);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// 'S' is asleep; the third field, behind a name in parentheses.
char state_of(long thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t end_of_name = line.rfind(')');
  return end_of_name == std::string::npos ? '?' : line.at(end_of_name + 2);
}

// How often it has given up its core to wait.
long sleeps_of(long thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/status");
  const std::string key = "voluntary_ctxt_switches:";
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return std::stol(line.substr(key.size()));
  }
  return -1;
}

}  // namespace

TEST_CASE("calls are made in order on one other thread, which enters once and leaves at its end") {
  std::vector<std::thread::id> entered;
  std::vector<std::thread::id> left;
  std::vector<std::pair<int, std::thread::id>> calls;
  {
    PostingThread thread([&] {
      entered.push_back(std::this_thread::get_id());
      return std::shared_ptr<void>(nullptr,
                                   [&](void*) { left.push_back(std::this_thread::get_id()); });
    });
    for (int i = 0; i < 3; ++i) {
      const Result result = run(thread, [&calls, i] {
        calls.emplace_back(i, std::this_thread::get_id());
        return i == 1 ? Result::in_progress : Result::success;
      });
      CHECK(result == (i == 1 ? Result::in_progress : Result::success));
    }
    CHECK(left.empty());
  }
  REQUIRE(entered.size() == 1);
  CHECK(entered[0] != std::this_thread::get_id());
  CHECK(left == entered);
  CHECK(calls == std::vector{std::pair{0, entered[0]}, {1, entered[0]}, {2, entered[0]}});
}

TEST_CASE("without calls the thread sleeps, and a call wakes it") {
  PostingThread thread(enter_nothing);
  for (int i = 0; i < 3; ++i) {
    long number = 0;
    run(thread, [&number] {
      number = syscall(SYS_gettid);
      return Result::success;
    });
    const WaitContext context = patience();
    WaitLoop loop(context);
    while (state_of(number) != 'S') loop.pause("the thread to sleep");
  }
}

TEST_CASE("a thread that sleeps wakes to get ready, and goes to sleep again where nothing comes") {
  PostingThread thread(enter_nothing);
  long number = 0;
  const auto ask = [&number] {
    number = syscall(SYS_gettid);
    return Result::success;
  };
  run(thread, ask);
  for (int i = 0; i < 3; ++i) {
    const WaitContext context = patience();
    WaitLoop loop(context);
    while (state_of(number) != 'S') loop.pause("the thread to sleep");
    const long sleeps = sleeps_of(number);
    thread.get_ready();
    while (sleeps_of(number) == sleeps) loop.pause("the thread to wake and sleep again");
  }
  CHECK(run(thread, ask) == Result::success);
}

TEST_CASE("a call that blocks holds nobody up, and its result is there when it has come back") {
  PostingThread thread(enter_nothing, {1ms, 20s});
  const auto gate = std::make_shared<Gate>();
  thread.start(blocking_call(gate));
  gate->entered.get_future().wait();
  CHECK(thread.result() == std::nullopt);
  CHECK_FALSE(thread.give_up());  // It goes on.
  CHECK(thread.result() == std::nullopt);
  gate->opened.set_value();
  CHECK(result_of(thread) == Result::remote_error);
  CHECK(gate.use_count() == 1);
  CHECK(run(thread, [] { return Result::success; }) == Result::success);
}

TEST_CASE("a call that is given up has time to come back before it is left") {
  const auto gate = std::make_shared<Gate>();
  PostingThread thread(enter_nothing, {20s, 20s});
  thread.start(blocking_call(gate));
  const std::jthread opening([&] {
    gate->entered.get_future().wait();
    gate->opened.set_value();
  });
  CHECK(thread.give_up());
  // The call has come back, and let go what it had.
  CHECK(gate->left.get_future().wait_for(0s) == std::future_status::ready);
  CHECK(gate.use_count() == 1);
}

TEST_CASE("what a call or entering throws is thrown to the caller") {
  bool can_enter = false;
  PostingThread thread([&can_enter]() -> std::shared_ptr<void> {
    if (!can_enter) throw Error(StatusCode::unavailable, "no such device");
    return nullptr;
  });
  const auto fail = []() -> Result { throw Error(StatusCode::internal, "wrong"); };
  const auto fail_otherwise = []() -> Result { throw std::runtime_error("no Error"); };
  CHECK(message_of_run(thread, fail) == "no such device");
  CHECK(message_of_run(thread, fail) == "no such device");
  can_enter = true;
  CHECK(message_of_run(thread, fail) == "wrong");
  CHECK(message_of_run(thread, fail_otherwise) == "no Error");
  CHECK(run(thread, [] { return Result::success; }) == Result::success);
}

TEST_CASE("the end waits for a call that is under way, and lets go what it used") {
  const auto gate = std::make_shared<Gate>();
  std::promise<void> ended;
  {
    auto thread = std::make_unique<PostingThread>(enter_nothing, PostingThread::Patience{1ms, 20s});
    thread->start(blocking_call(gate));
    gate->entered.get_future().wait();
    const std::jthread ending([&] {
      thread.reset();
      ended.set_value();
    });
    CHECK(ended.get_future().wait_for(20ms) == std::future_status::timeout);
    gate->opened.set_value();
  }
  CHECK(gate->left.get_future().wait_for(0s) == std::future_status::ready);
  CHECK(gate.use_count() == 1);
}

TEST_CASE("a thread that a call never gives back is left, with a warning") {
  const auto gate = std::make_shared<Gate>();
  const auto entered = std::make_shared<int>();
  std::string warned;
  {
    const test::CapturedStderr captured;
    {
      PostingThread thread([entered] { return entered; }, kShort);
      thread.start(blocking_call(gate));
      gate->entered.get_future().wait();
    }
    warned = captured.text();
  }
  CHECK_THAT(warned, Contains("does not come back from a call") && Contains("left there"));
  // It ends with the call.
  gate->opened.set_value();
  const WaitContext context = patience();
  WaitLoop loop(context);
  while (gate.use_count() > 1 || entered.use_count() > 1) loop.pause("the thread to end");
}

TEST_CASE("a lost rank ends a call of NCCL that waits for it, by an abort") {
  using namespace device::nccl;
  Api api;
  std::promise<void> aborted;
  std::promise<void> came_back;
  const auto wait_for_abort = [&] {
    aborted.get_future().wait();
    came_back.set_value();
    return Result::internal_error;
  };
  api.comm_init_rank_config = [](CommHandle* comm, int, UniqueId, int, CommConfig*) {
    *comm = reinterpret_cast<CommHandle>(1);
    return Result::success;
  };
  api.comm_split = [](CommHandle, int, int, CommHandle* comm, CommConfig*) {
    *comm = reinterpret_cast<CommHandle>(2);
    return Result::success;
  };
  api.comm_get_async_error = [](CommHandle, Result* state) {
    *state = Result::success;
    return Result::success;
  };
  api.comm_abort = [&](CommHandle comm) {
    if (comm == reinterpret_cast<CommHandle>(2)) aborted.set_value();
    return Result::success;
  };
  api.group_start = api.group_end = [] { return Result::success; };
  api.broadcast = [&](auto...) { return wait_for_abort(); };
  api.comm_finalize = [&](auto...) { return wait_for_abort(); };

  const test::CapturedStderr captured;
  std::string message;
  {
    PostingThread thread(enter_nothing, {1ms, 20s});
    const auto whole = Communicator::create(std::make_shared<const Api>(api), {}, 0, 2, patience());
    const auto blocking = whole->split({0, 0, 2}, thread, patience());
    test::LostRank lost;
    const bool is_closing = GENERATE(false, true);
    try {
      if (is_closing) {
        blocking->close({Deadline::after(20s), &lost});
      } else {
        blocking->broadcast(nullptr, nullptr, 1, 0, nullptr, patience());
        CHECK_FALSE(blocking->is_posted());
        lost.check();
      }
    } catch (const Error& error) {
      message = error.what();
    }
    blocking->abort();
  }
  CHECK(message == "rank 2 is lost");
  CHECK(came_back.get_future().wait_for(0s) == std::future_status::ready);
  CHECK(captured.text() == "");
}
