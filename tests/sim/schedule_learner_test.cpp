// How rank 0 learns what repeats.
#include "runtime/negotiation/schedule_learner.hpp"

#include <vector>

#include "runtime/negotiation/schedule.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using namespace std::chrono_literals;
using negotiation::ScheduleLearner;

namespace {

using Schedule = std::vector<std::vector<std::int32_t>>;

}  // namespace

TEST_CASE("a step is over when it holds the tensors of the one before, in any order and cuts") {
  ScheduleLearner learner(3);
  learner.take(std::vector<std::int32_t>{1, 2}, 1ms);
  learner.take(std::vector<std::int32_t>{3}, 1ms);
  learner.take(std::vector<std::int32_t>{3, 1}, 2ms);
  learner.take(std::vector<std::int32_t>{2}, 1ms);
  CHECK_FALSE(learner.is_ready());
  learner.take(std::vector<std::int32_t>{2}, 5ms);
  learner.take(std::vector<std::int32_t>{1, 3}, 1ms);
  REQUIRE(learner.is_ready());
  CHECK(learner.schedule() == Schedule{{2}, {1, 3}});
  CHECK(learner.patience() == 40ms);
  SECTION("what the step under way has had comes last") {
    learner.take(std::vector<std::int32_t>{1}, 1ms);
    REQUIRE(learner.is_ready());
    CHECK(learner.schedule() == Schedule{{2}, {3}, {1}});
  }
  SECTION("another tensor in it makes all wait") {
    learner.take(std::vector<std::int32_t>{1, 4}, 1ms);
    CHECK_FALSE(learner.is_ready());
    learner.take(std::vector<std::int32_t>{2, 3}, 1ms);
    for (int step = 0; step < 2; ++step) {
      CHECK_FALSE(learner.is_ready());
      learner.take(std::vector<std::int32_t>{1, 2, 3, 4}, 1ms);
    }
    CHECK(learner.is_ready());
  }
  SECTION("what cannot be scheduled starts it again") {
    learner.reset();
    for (int step = 0; step < 3; ++step) {
      CHECK_FALSE(learner.is_ready());
      learner.take(std::vector<std::int32_t>{1, 2, 3}, 1s);
    }
    CHECK(learner.is_ready());
    CHECK(learner.patience() == 1s);
  }
}

TEST_CASE("an agreement that spans two steps is cut where the second begins") {
  ScheduleLearner learner(2);
  for (int step = 0; step < 4; ++step) {
    learner.take(std::vector<std::int32_t>{1, 2}, 1ms);
    learner.take(std::vector<std::int32_t>{3, 0}, 1ms);
  }
  REQUIRE(learner.is_ready());
  Schedule schedule = learner.schedule();
  std::size_t tensors = 0;
  for (const auto& agreement : schedule) tensors += agreement.size();
  CHECK(tensors == 4);
}

TEST_CASE("a schedule that did not pay needs more equal steps the next time, up to a bound") {
  ScheduleLearner learner(3);
  const auto steps_until_ready = [&] {
    int steps = 0;
    for (; !learner.is_ready(); ++steps) learner.take(std::vector<std::int32_t>{1, 2}, 1ms);
    return steps;
  };
  const int first = steps_until_ready();
  learner.take_leave(2);
  CHECK(steps_until_ready() == first + 3);
  learner.take_leave(0);
  CHECK(steps_until_ready() == first + 9);
  for (int i = 0; i < 10; ++i) learner.take_leave(0);
  CHECK(steps_until_ready() == first + 3 * (ScheduleLearner::kStepsFactorMax - 1));
  learner.take_leave(1000);
  CHECK(steps_until_ready() == first);
}

TEST_CASE("a step of more tensors than a schedule may hold is never learnt") {
  ScheduleLearner learner(1);
  std::vector<std::int32_t> numbers(negotiation::kScheduledTensorsMax + 1);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int32_t>(i);
  for (int step = 0; step < 5; ++step) learner.take(numbers, 1ms);
  CHECK_FALSE(learner.is_ready());
  numbers.pop_back();
  learner.reset();
  for (int step = 0; step < 3; ++step) learner.take(numbers, 1ms);
  CHECK(learner.is_ready());
}
