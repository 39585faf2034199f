#include "runtime/tensor_queue.hpp"

#include <poll.h>

#include <atomic>
#include <thread>

#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

PendingTensor pending(const std::string& name) {
  PendingTensor tensor;
  tensor.name = name;
  tensor.ticket = std::make_shared<TicketState>(nullptr);
  return tensor;
}

bool is_readable(const WakeUp& wake_up) {
  pollfd descriptor{wake_up.descriptor(), POLLIN, 0};
  return poll(&descriptor, 1, 0) == 1;
}

}  // namespace

TEST_CASE("a push wakes a sleeper and a drain takes everything in order") {
  TensorQueue queue(10);
  REQUIRE(queue.start_sleep());
  CHECK_FALSE(is_readable(queue.wake_up()));
  queue.push(pending("a"));
  queue.push(pending("b"));
  CHECK(is_readable(queue.wake_up()));
  const auto drained = queue.drain();
  REQUIRE(drained.tensors.size() == 2);
  CHECK(drained.tensors[0].name == "a");
  CHECK(drained.tensors[1].name == "b");
  CHECK_FALSE(is_readable(queue.wake_up()));
  CHECK(queue.drain().is_empty());
  queue.end_sleep();
}

TEST_CASE("a push signals nobody where nobody sleeps, and is seen before the next sleep") {
  TensorQueue queue(10);
  queue.push(pending("a"));
  CHECK_FALSE(is_readable(queue.wake_up()));
  CHECK_FALSE(queue.start_sleep());
  CHECK(queue.drain().tensors.size() == 1);
  CHECK(queue.start_sleep());
  queue.end_sleep();
}

TEST_CASE("a sleeper is woken without anything to drain, and only until it looks") {
  TensorQueue queue(10);
  queue.wake_sleepers();
  CHECK_FALSE(is_readable(queue.wake_up()));
  REQUIRE(queue.start_sleep());
  queue.wake_sleepers();
  CHECK(is_readable(queue.wake_up()));
  CHECK(queue.drain().is_empty());
  CHECK_FALSE(is_readable(queue.wake_up()));
  queue.end_sleep();
}

TEST_CASE("a name is refused until its ticket has completed, also after the drain") {
  TensorQueue queue(10);
  queue.push(pending("a"));
  CHECK_THROWS_WITH(queue.push(pending("a")),
                    Catch::Contains("tensor a") && Catch::Contains("in flight"));
  auto drained = queue.drain();
  CHECK_THROWS_AS(queue.push(pending("a")), Error);
  const PendingTensor* tensor = &drained.tensors[0];
  queue.complete({&tensor, 1}, Status());
  CHECK(tensor->ticket->is_ready());
  CHECK_NOTHROW(queue.push(pending("a")));
}

TEST_CASE("the queue is bounded by what is in flight") {
  TensorQueue queue(2);
  queue.push(pending("a"));
  queue.push(pending("b"));
  queue.drain();
  CHECK_THROWS_WITH(queue.push(pending("c")), Catch::Contains("SCALECOM_QUEUE_CAPACITY"));
}

TEST_CASE("a group is pushed as a whole, or leaves nothing behind") {
  const auto group = [](std::vector<std::string> names) {
    std::vector<PendingTensor> tensors;
    for (const std::string& name : names) tensors.push_back(pending(name));
    return tensors;
  };
  TensorQueue queue(4);
  queue.push(pending("c"));
  CHECK_THROWS_WITH(queue.push_group(group({"a", "b", "c"})), Catch::Contains("tensor c"));
  CHECK_THROWS_WITH(queue.push_group(group({"a", "b", "d", "e"})),
                    Catch::Contains("4 more come as a group"));
  CHECK(queue.drain().tensors.size() == 1);
  CHECK_FALSE(is_readable(queue.wake_up()));
  REQUIRE(queue.start_sleep());
  queue.push_group(group({"a", "b", "d"}));
  queue.end_sleep();
  CHECK(is_readable(queue.wake_up()));
  const auto drained = queue.drain();
  REQUIRE(drained.tensors.size() == 3);
  CHECK(drained.tensors[2].name == "d");
  queue.close(Status(StatusCode::rank_lost, "rank 3 died"));
  CHECK_THROWS_WITH(queue.push_group(group({"e"})), "rank 3 died");
}

TEST_CASE("a ticket of several members is ready when all are, with the first error") {
  TicketState ticket(nullptr, 3);
  ticket.complete(Status());
  ticket.complete(Status(StatusCode::mismatch, "first"));
  CHECK_FALSE(ticket.is_ready());
  ticket.complete(Status(StatusCode::rank_lost, "second"));
  CHECK(ticket.is_ready());
  CHECK(ticket.wait_until(Deadline::after(std::chrono::seconds(10)))->message() == "first");
}

TEST_CASE("a closed queue returns what it held and refuses with the cause") {
  TensorQueue queue(10);
  queue.push(pending("a"));
  const auto left = queue.close(Status(StatusCode::rank_lost, "rank 3 died"));
  CHECK(left.tensors.size() == 1);
  CHECK_THROWS_WITH(queue.push(pending("b")), "rank 3 died");
  CHECK_FALSE(queue.push_task([] {}));
  CHECK(queue.closed_status().code() == StatusCode::rank_lost);
}

TEST_CASE("pushes of many threads are all drained, each once") {
  constexpr int kThreads = 4;
  constexpr int kPushes = 500;
  TensorQueue queue(kThreads * kPushes);
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&queue, thread] {
      for (int i = 0; i < kPushes; ++i) {
        queue.push(pending(std::to_string(thread) + "/" + std::to_string(i)));
      }
    });
  }
  std::size_t drained = 0;
  while (drained < kThreads * kPushes) {
    if (queue.start_sleep()) {
      pollfd descriptor{queue.wake_up().descriptor(), POLLIN, 0};
      REQUIRE(poll(&descriptor, 1, 10'000) == 1);
      queue.end_sleep();
    }
    drained += queue.drain().tensors.size();
  }
  CHECK(drained == kThreads * kPushes);
}

TEST_CASE("a drained queue is not readable, however close the push and the drain come") {
  constexpr int kPushes = 5'000;
  TensorQueue queue(10);
  std::atomic<int> pushed{0};
  std::atomic<int> drained{0};
  std::jthread pusher([&] {
    for (int i = 1; i <= kPushes; ++i) {
      queue.push_task([] {});
      pushed = i;
      while (drained < i) std::this_thread::yield();
    }
  });
  int readable = 0;
  const bool is_asleep = queue.start_sleep();
  REQUIRE((is_asleep || queue.has_items()));
  for (int i = 1; i <= kPushes; ++i) {
    // As close behind the push as can be: this meets the race where two cores are free.
    for (int polls = 0; queue.drain().is_empty(); ++polls) {
      if (polls > 10'000) std::this_thread::yield();
    }
    while (pushed < i) std::this_thread::yield();  // The push has returned.
    if (is_readable(queue.wake_up())) ++readable;
    drained = i;
  }
  CHECK(readable == 0);
}

TEST_CASE("a wait with a deadline gives up and the ticket still completes later") {
  TicketState ticket(nullptr);
  CHECK_FALSE(ticket.wait_until(Deadline::after(std::chrono::milliseconds(5))));
  ticket.complete(Status(StatusCode::mismatch, "differs"));
  const auto status = ticket.wait_until(Deadline::after(std::chrono::seconds(10)));
  REQUIRE(status);
  CHECK(status->message() == "differs");
}
