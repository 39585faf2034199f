#include "runtime/control/host_facts.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

std::vector<HostFacts> hosts(const std::vector<std::string>& ids) {
  std::vector<HostFacts> facts;
  for (const std::string& id : ids) facts.push_back({"host-" + id, id, {}});
  return facts;
}

}  // namespace

TEST_CASE("local and cross ranks follow from who shares a host") {
  const auto facts = hosts({"a", "a", "b", "b"});
  const Topology topology = make_topology(3, facts);
  CHECK(topology.rank == 3);
  CHECK(topology.size == 4);
  CHECK(topology.local_rank == 1);
  CHECK(topology.local_size == 2);
  CHECK(topology.cross_rank == 1);
  CHECK(topology.cross_size == 2);
  CHECK(topology.is_homogeneous);
  CHECK(topology.hosts == std::vector<std::string>{"host-a", "host-a", "host-b", "host-b"});
}

TEST_CASE("hosts with different numbers of ranks are not homogeneous") {
  const auto facts = hosts({"a", "b", "a"});
  const Topology third = make_topology(2, facts);
  CHECK(third.local_rank == 1);
  CHECK(third.local_size == 2);
  CHECK(third.cross_rank == 0);
  CHECK(third.cross_size == 1);
  CHECK_FALSE(third.is_homogeneous);
  CHECK(make_topology(1, facts).cross_rank == 1);
}

TEST_CASE("one rank is its own host") {
  const Topology topology = make_topology(0, hosts({"a"}));
  CHECK(topology.size == 1);
  CHECK(topology.local_size == 1);
  CHECK(topology.cross_size == 1);
}

TEST_CASE("facts survive the journey, and garbage is refused") {
  const HostFacts facts = local_host_facts();
  CHECK_FALSE(facts.host_name.empty());
  CHECK(parse_host_facts(serialize(facts)) == facts);
  CHECK_THROWS_AS(parse_host_facts("{"), Error);
  CHECK_THROWS_AS(parse_host_facts("{\"host_name\": 3}"), Error);
}
