#include "runtime/launch.hpp"

#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

TEST_CASE("the ranks meet behind MASTER_PORT, which is torch's own") {
  const RankLaunch launch{1, 4, "host", 29500, HostSpread::unknown, ""};
  const Rendezvous rendezvous = plan_rendezvous(launch, {});
  CHECK(rendezvous.rank == 1);
  CHECK(rendezvous.size == 4);
  CHECK(rendezvous.host == "host");
  REQUIRE(rendezvous.ports.size() == 16);
  CHECK(rendezvous.ports.front() == 29501);
  CHECK(rendezvous.ports.back() == 29516);
  CHECK(rendezvous.hosts == HostSpread::unknown);
}

TEST_CASE("ports behind the last one begin again above the system's own") {
  const auto ports = plan_rendezvous({0, 2, "host", 65534, HostSpread::unknown, ""}, {}).ports;
  CHECK(std::vector(ports.begin(), ports.begin() + 3) == std::vector{65535, 1024, 1025});
}

TEST_CASE("SCALECOM_RENDEZVOUS comes before MASTER_ADDR and MASTER_PORT") {
  Config config;
  config.rendezvous = "other:4000";
  config.rendezvous_key = "secret";
  for (const RankLaunch& launch : {RankLaunch{0, 2, "host", 29500, HostSpread::unknown, ""},
                                   RankLaunch{0, 2, "", 0, HostSpread::unknown, ""}}) {
    const Rendezvous rendezvous = plan_rendezvous(launch, config);
    CHECK(rendezvous.host == "other");
    CHECK(rendezvous.ports == std::vector{4000});
    CHECK(rendezvous.secret == "secret");
  }
}

TEST_CASE("jobs of other ports and other starts by torchrun are other jobs") {
  const auto job = [](int port, const char* attempt) {
    return plan_rendezvous({0, 2, "host", port, HostSpread::one, attempt}, {}).job;
  };
  CHECK(job(1, "a/0") == job(1, "a/0"));
  CHECK(job(1, "a/0") != job(2, "a/0"));
  CHECK(job(1, "a/0") != job(1, "a/1"));
  CHECK(job(1, "a/0") != job(1, "b/0"));
}

TEST_CASE("without a place to meet the variable that is missing is named") {
  CHECK_THROWS_WITH(plan_rendezvous({0, 2, "", 29500, HostSpread::one, ""}, {}),
                    Contains("MASTER_ADDR is not") && Contains("SCALECOM_RENDEZVOUS=host:port"));
  CHECK_THROWS_WITH(plan_rendezvous({0, 2, "host", 0, HostSpread::one, ""}, {}),
                    Contains("MASTER_PORT is not"));
}

TEST_CASE("the place to meet may be an IPv6 address, and is refused where it can be none") {
  const auto host_of = [](const char* address) {
    return plan_rendezvous({0, 2, address, 29500, HostSpread::unknown, ""}, {}).host;
  };
  CHECK(host_of("::1") == "::1");
  CHECK(host_of("[fd00::0:1]") == "fd00::1");
  CHECK_THROWS_WITH(host_of("[::1"), Contains("MASTER_ADDR=[::1 is no host"));
  CHECK_THROWS_WITH(host_of("fe80::1"), Contains("MASTER_ADDR=fe80::1 is a link-local address"));
  Config config;
  config.rendezvous = "[fd00::1]:4000";
  const Rendezvous rendezvous = plan_rendezvous({0, 2, "", 0, HostSpread::unknown, ""}, config);
  CHECK(rendezvous.host == "fd00::1");
  CHECK(rendezvous.ports == std::vector{4000});
  config.rendezvous = "[fe80::1]:4000";
  CHECK_THROWS_WITH(plan_rendezvous({0, 2, "", 0, HostSpread::unknown, ""}, config),
                    Contains("SCALECOM_RENDEZVOUS=[fe80::1] is a link-local address"));
  config.sources["RENDEZVOUS"] = "HOROVOD_RENDEZVOUS";
  CHECK_THROWS_WITH(plan_rendezvous({0, 2, "", 0, HostSpread::unknown, ""}, config),
                    Contains("HOROVOD_RENDEZVOUS=[fe80::1] is a link-local address"));
}
