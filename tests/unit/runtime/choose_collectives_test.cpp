#include "runtime/device/choose_collectives.hpp"

#include "collective/message_collectives.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_accelerator.hpp"
#include "tests/support/ranks.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

DeviceFacts with_nccl(const std::string& gpu, int version = 22809, bool may_share = false) {
  return {gpu, version, "", may_share};
}

std::string why_not(const std::vector<DeviceFacts>& facts) { return why_not_nccl(facts); }

// What each rank chose, or the error that it got. Rank `without` has no NCCL.
std::vector<std::string> choose(const std::string& setting, int without, int size = 3) {
  LoopbackWorld world(size);
  std::vector<std::string> chosen(static_cast<std::size_t>(size));
  Config config;
  config.cuda_collectives = setting;
  test::run_ranks(size, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives host(*transport, "auto");
    test::FakeAccelerator accelerator(1, rank);
    const auto entered = accelerator.enter();
    const WaitContext context{Deadline::after(std::chrono::seconds(10)), nullptr};
    const auto load = [&]() -> device::nccl::Api {
      if (rank == without) throw Error(StatusCode::unavailable, "NCCL cannot be loaded (here)");
      device::nccl::Api api;
      api.version = 22809;
      return api;
    };
    std::vector<int> hosts(static_cast<std::size_t>(size));
    std::string& outcome = chosen[static_cast<std::size_t>(rank)];
    try {
      const auto made =
          choose_device_collectives({accelerator, host, config, "a host", hosts, load}, context);
      outcome = std::string(made->name()) + ": " + made->description();
    } catch (const Error& error) {
      outcome = std::string("error: ") + error.what();
    }
  });
  return chosen;
}

}  // namespace

TEST_CASE("NCCL is for ranks that all have one version of it and a GPU each") {
  CHECK(why_not({with_nccl("a"), with_nccl("b")}) == "");
  CHECK_THAT(why_not({with_nccl("a", 22809), with_nccl("b", 22807)}),
             Contains("2.28.9") && Contains("2.28.7") && Contains("rank 1"));
  CHECK_THAT(why_not({with_nccl("a"), {"b", 0, "no driver", false}}),
             Contains("rank 1") && Contains("no driver"));
  CHECK_THAT(why_not({with_nccl("a", 22809), with_nccl("b", 22703)}),
             Contains("2.28.9") && Contains("2.27.3") && Contains("one version"));
  CHECK_THAT(why_not({with_nccl("a"), with_nccl("b"), with_nccl("a")}),
             Contains("ranks 0 and 2 share the GPU a") && Contains("local_rank"));
  CHECK(why_not({with_nccl("a", 22809, true), with_nccl("a", 22809, true)}) == "");
}

TEST_CASE("a rank without NCCL sends all ranks through the host's memory") {
  for (const std::string& outcome : choose("auto", 1)) {
    CHECK_THAT(outcome, Contains("host: ") && Contains("rank 1") && Contains("NCCL cannot"));
  }
}

TEST_CASE("where NCCL is demanded, all ranks hear why it cannot be had") {
  for (const std::string& outcome : choose("nccl", 2)) {
    CHECK_THAT(outcome, Contains("error: ") && Contains("SCALECOM_CUDA_COLLECTIVES is nccl") &&
                            Contains("rank 2"));
  }
}

TEST_CASE("the host's collectives are taken where they are asked for, and none for one rank") {
  for (const std::string& outcome : choose("host", 0)) CHECK_THAT(outcome, Contains("host: "));
  CHECK_THAT(choose("nccl", 0, 1)[0], Contains("none: "));
}
