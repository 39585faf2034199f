// NCCL's every answer, from functions in its place.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "device/nccl/communicator.hpp"
#include "device/nccl/error.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/lost_rank.hpp"
#include "tests/unit/device/callers_poster.hpp"
#include "tests/unit/device/fake_nccl.hpp"

using namespace scalecom;
using namespace scalecom::device::nccl;
using Catch::Contains;

namespace {

void reduce(Communicator& communicator, const WaitContext& context) {
  communicator.all_reduce(nullptr, nullptr, 10, DataType::float32, ReduceOp::sum, nullptr, context);
  const Deadline limit = Deadline::after(std::chrono::seconds(30));
  while (!communicator.is_posted() && !limit.has_passed()) communicator.advance();
}

Error error_of_reduce(Communicator& communicator, const WaitContext& context = patience()) {
  try {
    reduce(communicator, context);
  } catch (const Error& error) {
    return error;
  }
  return {StatusCode::ok, "no error"};
}

using Calls = std::vector<std::string>;

/// A communicator that is split off, and whose calls are not made before a test says so.
struct HeldBackPart {
  FakeNccl nccl;
  test::CallersPoster poster;
  int given_up_before_abort = 0;  // Here, as the end of `whole` is an abort, too.
  std::unique_ptr<Communicator> whole = nccl.connect();
  std::unique_ptr<Communicator> part =
      whole->split({.color = 0, .rank = 1, .size = 3}, poster, patience());

  HeldBackPart() { poster.is_held_back = true; }
};

}  // namespace

TEST_CASE("a communicator does not block, and is there when NCCL says so") {
  FakeNccl nccl;
  nccl.results["init"] = Result::in_progress;
  nccl.states = {Result::in_progress, Result::in_progress, Result::success};
  const auto communicator = Communicator::create(nccl.shared(), {}, 1, 3, patience());
  CHECK(nccl.calls == Calls{"init 1 of 3 blocking 0"});
  CHECK(nccl.polls == 3);
  CHECK(communicator->rank() == 1);
  CHECK(communicator->size() == 3);
}

TEST_CASE("operations become NCCL's, with its numbers for types and reductions") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  const auto call = [&](DataType dtype, ReduceOp op) {
    communicator->all_reduce(nullptr, nullptr, 5, dtype, op, nullptr, patience());
  };
  call(DataType::float32, ReduceOp::sum);
  call(DataType::bfloat16, ReduceOp::average);
  call(DataType::int64, ReduceOp::min);
  call(DataType::uint8, ReduceOp::max);
  call(DataType::float16, ReduceOp::product);
  communicator->reduce_scatter(nullptr, nullptr, 6, DataType::float64, ReduceOp::sum, nullptr,
                               patience());
  communicator->broadcast(nullptr, nullptr, 7, 2, nullptr, patience());
  communicator->all_gather(nullptr, nullptr, 8, nullptr, patience());
  CHECK(nccl.calls == Calls{"all_reduce 5 7 0 on 1", "all_reduce 5 9 4 on 1",
                            "all_reduce 5 4 3 on 1", "all_reduce 5 1 2 on 1",
                            "all_reduce 5 6 1 on 1", "reduce_scatter 6 8 0 on 1",
                            "broadcast 7 1 2 on 1", "all_gather 8 1 on 1"});
}

TEST_CASE("what NCCL does not reduce is refused, and the communicator goes on") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  for (const DataType dtype : {DataType::int16, DataType::boolean}) {
    CHECK_THROWS_WITH(
        communicator->all_reduce(nullptr, nullptr, 5, dtype, ReduceOp::sum, nullptr, patience()),
        Contains("does not reduce") && Contains(to_string(dtype)));
  }
  CHECK(nccl.calls.empty());
  CHECK(error_of_reduce(*communicator).code() == StatusCode::ok);
}

TEST_CASE("an all-to-all is a group of sends and receives of what is not empty") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  const std::array<std::int64_t, 3> sent{4, 0, 8};
  const std::array<std::int64_t, 3> received{0, 2, 6};
  communicator->all_to_all({nccl.memory.data(), sent}, {nccl.memory.data() + 16, received}, nullptr,
                           patience());
  CHECK(nccl.calls == Calls{"group_start", "send 4 to 0 at 0", "receive 2 from 1 at 16",
                            "send 8 to 2 at 4", "receive 6 from 2 at 18", "group_end"});
}

TEST_CASE("a failure inside a group is the cause that is told, and the group is ended") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  nccl.results["receive"] = Result::invalid_argument;
  nccl.results["group_end"] = Result::internal_error;
  const std::array<std::int64_t, 3> bytes{1, 1, 1};
  try {
    communicator->all_to_all({nccl.memory.data(), bytes}, {nccl.memory.data(), bytes}, nullptr,
                             patience());
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == StatusCode::internal);
    CHECK_THAT(error.what(), Contains("all-to-all failed"));
  }
  CHECK(nccl.calls == Calls{"group_start", "send 1 to 0 at 0", "receive 1 from 0 at 0", "group_end",
                            "abort on 1"});
}

TEST_CASE("a collective that is in progress is polled until it is in the stream") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  nccl.results["all_reduce"] = Result::in_progress;
  nccl.states = {Result::in_progress, Result::success};
  reduce(*communicator, patience());
  CHECK(nccl.polls == 2);
}

TEST_CASE("an error has NCCL's name for it, its last words and the remedy, and its code") {
  const struct {
    Result result;
    const char* last_error;
    StatusCode code;
    const char* remedy;
  } cases[] = {
      {Result::remote_error, "socket closed", StatusCode::rank_lost, "look at the lost rank's own"},
      {Result::unhandled_cuda_error, "", StatusCode::unavailable, "names the CUDA call"},
      {Result::unhandled_cuda_error,
       "Cuda failure 'operation not permitted when stream is capturing'", StatusCode::unavailable,
       "call the collectives once before the capture"},
      {Result::system_error, "bind failed", StatusCode::unavailable, "ulimit -n"},
      {Result::invalid_usage, "Bootstrap : no socket interface found", StatusCode::unavailable,
       "NCCL_SOCKET_IFNAME names"},
      {Result::system_error, "NET/Socket : No usable listening interface found",
       StatusCode::unavailable, "NCCL_SOCKET_IFNAME names"},
      {Result::system_error, "error while creating shared memory segment", StatusCode::unavailable,
       "--shm-size"},
      {Result::internal_error, "", StatusCode::internal, "please report"},
      {Result::invalid_argument, "", StatusCode::internal, "please report"},
      {Result::invalid_usage, "Duplicate GPU detected", StatusCode::unavailable, "two ranks use"},
      {Result::invalid_usage, "Multiple Ranks are using the same GPU/Partition.",
       StatusCode::unavailable, "two ranks use"},
      {Result::invalid_usage, "", StatusCode::unavailable, "different versions"},
  };
  for (const auto& expected : cases) {
    FakeNccl nccl;
    const auto communicator = nccl.connect();
    nccl.last_error = expected.last_error;
    nccl.results["all_reduce"] = expected.result;
    const Error error = error_of_reduce(*communicator);
    CHECK(error.code() == expected.code);
    CHECK_THAT(error.what(), Contains("all-reduce failed in NCCL 2.28.9") &&
                                 Contains(nccl.api.get_error_string(expected.result)) &&
                                 Contains(expected.last_error) && Contains(expected.remedy));
    CHECK(nccl.calls.back() == "abort on 1");
  }
}

TEST_CASE("an error while a collective is in progress, of NCCL or of the asking, ends it") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  nccl.results["all_reduce"] = Result::in_progress;
  const bool is_asking = GENERATE(true, false);
  nccl.states = {Result::in_progress, Result::remote_error};
  if (is_asking) nccl.poll_result = Result::system_error;
  CHECK(error_of_reduce(*communicator).code() ==
        (is_asking ? StatusCode::unavailable : StatusCode::rank_lost));
  CHECK(nccl.calls.back() == "abort on 1");
}

TEST_CASE("a hang ends at the deadline with an abort, and its cause stays") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  nccl.results["all_reduce"] = Result::in_progress;
  nccl.always = Result::in_progress;
  const Error error = error_of_reduce(*communicator, patience(std::chrono::milliseconds(20)));
  CHECK(error.code() == StatusCode::timed_out);
  CHECK_THAT(error.what(), Contains("NCCL: all-reduce"));
  CHECK(nccl.calls == Calls{"all_reduce 10 7 0 on 1", "abort on 1"});
  // Nothing more is asked of it.
  CHECK(std::string(error_of_reduce(*communicator).what()) == error.what());
  CHECK_THROWS_WITH(communicator->check(), error.what());
  CHECK_THROWS_WITH(communicator->close(patience()), error.what());
  CHECK(nccl.calls.size() == 2);
}

TEST_CASE("a lost rank ends the wait, and aborts") {
  FakeNccl nccl;
  test::LostRank lost;
  const WaitContext context{Deadline::after(std::chrono::seconds(20)), &lost};
  nccl.always = Result::in_progress;
  SECTION("for the orderly end") {
    nccl.results["finalize"] = Result::in_progress;
    const auto communicator = nccl.connect();
    CHECK_THROWS_WITH(communicator->close(context), "rank 2 is lost");
  }
  SECTION("while the ranks connect") {
    nccl.results["init"] = Result::in_progress;
    CHECK_THROWS_WITH(Communicator::create(nccl.shared(), {}, 0, 3, context), "rank 2 is lost");
  }
  CHECK(std::ranges::count(nccl.calls, "abort on 1") == 1);
  CHECK(nccl.calls.back() == "abort on 1");
}

TEST_CASE("what fails in a kernel or at a peer shows when it is asked for") {
  FakeNccl nccl;
  const auto communicator = nccl.connect();
  communicator->check();
  nccl.always = Result::in_progress;
  communicator->check();
  CHECK(nccl.calls.empty());
  nccl.always = Result::remote_error;
  CHECK_THROWS_WITH(communicator->check(), Contains("remote process exited"));
  CHECK(nccl.calls == Calls{"abort on 1"});
}

TEST_CASE("ranks that cannot connect are told why, and nothing stays") {
  FakeNccl nccl;
  nccl.results["init"] = Result::invalid_usage;
  nccl.last_error = "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000";
  CHECK_THROWS_WITH(Communicator::create(nccl.shared(), {}, 0, 2, patience()),
                    Contains("connecting 2 ranks failed") && Contains("rank 0 and rank 1") &&
                        Contains("two ranks use one GPU"));
  CHECK(nccl.calls.back() == "abort on 1");
  nccl.results["id"] = Result::system_error;
  CHECK_THROWS_WITH(make_unique_id(nccl.api), Contains("making a unique id failed"));
}

TEST_CASE("an orderly end waits for all ranks; without one the communicator is aborted") {
  FakeNccl nccl;
  auto communicator = nccl.connect();
  SECTION("closed") {
    nccl.results["finalize"] = Result::in_progress;
    nccl.states = {Result::in_progress, Result::success};
    communicator->close(patience());
    CHECK_THROWS_WITH(communicator->check(), "the communicator was closed");
    communicator.reset();
    CHECK(nccl.calls == Calls{"finalize on 1", "destroy on 1"});
    CHECK(nccl.polls == 2);
  }
  SECTION("closed, and NCCL is not asked about what it still frees") {
    nccl.results["destroy"] = Result::in_progress;
    communicator->close(patience());
    CHECK(nccl.calls == Calls{"finalize on 1", "destroy on 1"});
    CHECK(nccl.polls == 0);
  }
  SECTION("left") {
    communicator.reset();
    CHECK(nccl.calls == Calls{"abort on 1"});
  }
}

TEST_CASE("a split makes a communicator of a rank's color, or none") {
  FakeNccl nccl;
  test::CallersPoster poster;
  const auto whole = nccl.connect();
  nccl.results["split"] = Result::in_progress;
  nccl.states = {Result::in_progress, Result::success, Result::in_progress, Result::success};
  const auto part = whole->split({.color = 7, .rank = 1, .size = 2}, poster, patience());
  REQUIRE(part);
  CHECK(nccl.polls == 4);  // First of the whole, then of the part.
  CHECK(part->rank() == 1);
  CHECK(part->size() == 2);
  reduce(*part, patience());
  CHECK_FALSE(whole->split({.color = -3}, poster, patience()));
  CHECK(nccl.calls ==
        Calls{"split 7 1 blocking 1", "all_reduce 10 7 0 on 2", "split -1 0 blocking 1"});
}

TEST_CASE("a poster makes all calls of what is split off, each group as one") {
  FakeNccl nccl;
  NotingPoster poster(nccl);
  const auto whole = nccl.connect();
  auto part = whole->split({.color = 0, .rank = 1, .size = 3}, poster, patience());
  reduce(*part, patience());
  const std::array<std::int64_t, 3> bytes{1, 0, 0};
  part->all_to_all({nccl.memory.data(), bytes}, {nccl.memory.data(), bytes}, nullptr, patience());
  part->check();
  part->close(patience());
  part.reset();
  reduce(*whole, patience());
  CHECK(nccl.calls == Calls{"split 0 1 blocking 1", "all_reduce 10 7 0 on 2 by the poster",
                            "group_start by the poster", "send 1 to 0 at 0 by the poster",
                            "receive 1 from 0 at 0 by the poster", "group_end by the poster",
                            "finalize on 2 by the poster", "destroy on 2 by the poster",
                            "all_reduce 10 7 0 on 1"});
}

TEST_CASE_METHOD(
    HeldBackPart,
    "a collective does not wait for its poster, and is posted when the call has come back") {
  nccl.results["all_reduce"] = GENERATE(Result::success, Result::remote_error, Result::in_progress);
  part->all_reduce(nullptr, nullptr, 10, DataType::float32, ReduceOp::sum, nullptr, patience());
  CHECK_FALSE(part->is_posted());
  CHECK_FALSE(part->advance());
  CHECK(nccl.calls == Calls{"split 0 1 blocking 1"});
  nccl.states = {Result::in_progress, Result::success};
  poster.make();
  if (nccl.results["all_reduce"] == Result::remote_error) {
    CHECK_THROWS_WITH(part->advance(), Contains("all-reduce failed") && Contains("process exited"));
    CHECK(nccl.calls.back() == "abort on 2");
    return;
  }
  if (nccl.results["all_reduce"] == Result::in_progress) CHECK_FALSE(part->advance());
  CHECK(part->advance());
  CHECK(part->is_posted());
  CHECK(poster.times_given_up == 0);
}

TEST_CASE_METHOD(HeldBackPart,
                 "a call that does not come back is left with an abort, after it was given up") {
  nccl.api.comm_abort = [this, real = nccl.api.comm_abort](CommHandle comm) {
    given_up_before_abort = poster.times_given_up;
    return real(comm);
  };
  SECTION("a collective at its deadline") {
    const Error error = error_of_reduce(*part, patience(std::chrono::milliseconds(20)));
    CHECK(error.code() == StatusCode::timed_out);
    CHECK_THAT(error.what(), Contains("NCCL: all-reduce"));
    CHECK(std::string(error_of_reduce(*part).what()) == error.what());
  }
  SECTION("the orderly end, when a rank is lost") {
    test::LostRank lost;
    CHECK_THROWS_WITH(part->close({Deadline::after(std::chrono::seconds(20)), &lost}),
                      "rank 2 is lost");
  }
  CHECK(given_up_before_abort == 1);
  CHECK(poster.times_given_up == 2);
  // It is told to end at once, and freed with the group.
  CHECK(nccl.calls == Calls{"split 0 1 blocking 1", "group_start", "abort on 2", "group_end"});
}

TEST_CASE_METHOD(
    HeldBackPart,
    "a call that is aborted comes back before NCCL frees what it looks at, into the stream") {
  const auto [comes_back_at, calls] = GENERATE(table<int, Calls>({
      {0, {"group_start", "abort on 2", "group_end"}},  // It never does.
      {1, {"all_reduce 10 7 0 on 2", "abort on 2"}},
      {2, {"group_start", "abort on 2", "all_reduce 10 7 0 on 2", "group_end"}},
  }));
  poster.comes_back_at = comes_back_at;
  part->all_reduce(nullptr, nullptr, 10, DataType::float32, ReduceOp::sum, nullptr, patience());
  part->abort();
  nccl.calls.erase(nccl.calls.begin());  // The split.
  CHECK(nccl.calls == calls);
  CHECK(poster.times_given_up == (comes_back_at == 1 ? 1 : 2));
  CHECK(error_of_reduce(*part).code() == StatusCode::shut_down);
}

TEST_CASE("an orderly end that fails half done is told, and nothing is left to abort") {
  FakeNccl nccl;
  NotingPoster poster(nccl);
  const auto whole = nccl.connect();
  const auto part = whole->split({.color = 0, .rank = 1, .size = 3}, poster, patience());
  nccl.results["destroy"] = Result::system_error;
  CHECK_THROWS_WITH(part->close(patience()), Contains("ending a communicator failed"));
  CHECK(nccl.calls.back() == "destroy on 2 by the poster");
}

TEST_CASE("before 2.18 there is no split, and the communicator goes on") {
  FakeNccl nccl;
  nccl.api.comm_split = nullptr;
  nccl.api.version = 21701;
  const auto whole = nccl.connect();
  test::CallersPoster poster;
  CHECK_THROWS_WITH(whole->split({}, poster, patience()),
                    Contains("need NCCL 2.18") && Contains("2.17.1") && Contains("fake"));
  CHECK(error_of_reduce(*whole).code() == StatusCode::ok);
}

TEST_CASE("versions from 2.14 up to the last NCCL 2 are taken") {
  for (const int version : {21400, 22809, 23003, 29999}) CHECK_NOTHROW(check_version(version, "x"));
  CHECK_THROWS_WITH(check_version(21399, "/lib/x"), Contains("NCCL 2.13.99 (/lib/x)"));
  CHECK_THROWS_WITH(check_version(2708, "x"), Contains("NCCL 2708"));
  CHECK_THROWS_WITH(check_version(30000, "x"), Contains("NCCL 3.0.0") && Contains("pip install"));
}
