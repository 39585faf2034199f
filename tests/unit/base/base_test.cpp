#include <limits>
#include <set>

#include "base/log.hpp"
#include "base/wait.hpp"
#include "scalecom/status.hpp"
#include "scalecom/tensor.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

class CountingInterrupt final : public Interrupt {
 public:
  void check() override { ++checks; }
  int checks = 0;
};

}  // namespace

TEST_CASE("every dtype has a size and a name of its own, an unknown one has no size") {
  const std::vector<std::pair<DataType, std::int64_t>> sizes{
      {DataType::uint8, 1},  {DataType::int8, 1},    {DataType::boolean, 1},
      {DataType::int16, 2},  {DataType::float16, 2}, {DataType::bfloat16, 2},
      {DataType::int32, 4},  {DataType::float32, 4}, {DataType::int64, 8},
      {DataType::float64, 8}};
  std::set<std::string> names;
  for (const auto& [dtype, bytes] : sizes) {
    CHECK(size_of(dtype) == bytes);
    names.insert(to_string(dtype));
  }
  CHECK(names.size() == sizes.size());
  CHECK(size_of(static_cast<DataType>(99)) == 0);
}

TEST_CASE("a scalar has one element, an empty extent none, and counts have 64 bits") {
  CHECK(count_of({}) == 1);
  CHECK(count_of({3, 0, 5}) == 0);
  CHECK(count_of({1LL << 20, 1LL << 20}) == 1LL << 40);
}

TEST_CASE("a wait loop looks at the interrupt often and gives up at its deadline") {
  CountingInterrupt interrupt;
  const WaitContext context{Deadline::after(std::chrono::milliseconds(200)), &interrupt};
  WaitLoop loop(context);
  const auto wait_forever = [&] {
    while (true) loop.pause("all-reduce of w");
  };
  CHECK_THROWS_WITH(wait_forever(), "all-reduce of w: the deadline has passed");
  CHECK(context.deadline.has_passed());
  CHECK(interrupt.checks > 10);
}

TEST_CASE("a limit that the clock cannot count never passes, and one that it can is kept") {
  using Seconds = std::chrono::duration<double>;
  CHECK(Deadline::after(Seconds(1e10)).at() == TimePoint::max());
  CHECK(Deadline::after(Seconds(std::numeric_limits<double>::infinity())).at() == TimePoint::max());
  CHECK(Deadline::after(std::chrono::milliseconds::max()).at() == TimePoint::max());
  CHECK(Deadline::after(std::chrono::nanoseconds::max()).at() == TimePoint::max());
  const TimePoint before = Clock::now();
  const Seconds nine_billion = Deadline::after(Seconds(9e9)).at() - before;
  CHECK(nine_billion.count() == Approx(9e9));
  CHECK(Deadline::after(Seconds(0)).has_passed());
  CHECK(Deadline::after(Seconds(-1e300)).has_passed());
}

TEST_CASE("a long wait sleeps: it costs a small part of a core") {
  const WaitContext context{Deadline::after(std::chrono::milliseconds(300)), nullptr};
  WaitLoop loop(context);
  timespec before{};
  timespec after{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  CHECK_THROWS_AS(
      [&] {
        while (true) loop.pause("test");
      }(),
      Error);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  const double cpu_s = static_cast<double>(after.tv_sec - before.tv_sec) +
                       1e-9 * static_cast<double>(after.tv_nsec - before.tv_nsec);
  CHECK(cpu_s < 0.1);
}

TEST_CASE("the log's threshold decides what is built and written") {
  configure_log(LogLevel::error, 0);
  CHECK_FALSE(is_logged(LogLevel::warning));
  CHECK(is_logged(LogLevel::error));
  configure_log(LogLevel::off, 0);
  CHECK_FALSE(is_logged(LogLevel::fatal));
  configure_log(LogLevel::warning, 0);
}

TEST_CASE("a status is ok or carries code and message, and an error converts to one") {
  CHECK(Status().is_ok());
  const Error error(StatusCode::rank_lost, "rank 3 died");
  CHECK(error.status() == Status(StatusCode::rank_lost, "rank 3 died"));
  CHECK(std::string(to_string(StatusCode::rank_lost)) == "rank lost");
}
