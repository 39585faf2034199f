// The tuner as NCCL finds and calls it: by its symbol in the running program.

#include "device/nccl/tuner.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/device/tuner_plugin.hpp"

using namespace scalecom::device::nccl;
using scalecom::test::tuner_plugin;

namespace {

constexpr int kAlgorithms = 7;
constexpr int kProtocols = 3;
constexpr int kAllGather = 2;
constexpr int kAllReduce = 4;
using Costs = std::array<float, kAlgorithms * kProtocols>;

void* make_communicator() {
  void* context = nullptr;
  REQUIRE(tuner_plugin().init(4, 2, nullptr, &context) == 0);
  return context;
}

// What NCCL would offer: 1, 2, 3 ... but for the tree's first protocol, which it has ruled out.
Costs offered() {
  Costs costs;
  for (std::size_t i = 0; i < costs.size(); ++i) costs[i] = static_cast<float>(i + 1);
  costs[0] = -1.0f;
  return costs;
}

Costs ask(void* context, int function, Costs costs = offered()) {
  int channels = 0;
  REQUIRE(tuner_plugin().get_coll_info(context, function, 1 << 20, 1,
                                       reinterpret_cast<float**>(costs.data()), kAlgorithms,
                                       kProtocols, 0, &channels) == 0);
  CHECK(channels == 0);
  return costs;
}

Costs only(std::size_t algorithm) {
  Costs costs;
  costs.fill(-1.0f);
  for (std::size_t i = algorithm * kProtocols; i < (algorithm + 1) * kProtocols; ++i) {
    costs[i] = offered()[i];
  }
  return costs;
}

}  // namespace

TEST_CASE("a communicator's all-reduces take the algorithm that it was made with") {
  CHECK(std::string(tuner_plugin().name) == "scalecom");
  void* tree = nullptr;
  void* ring = nullptr;
  {
    const TunedCommunicators made(AllReduceAlgorithm::tree);
    CHECK_FALSE(made.has_been_asked());
    tree = make_communicator();
    CHECK(made.has_been_asked());
  }
  {
    const TunedCommunicators made(AllReduceAlgorithm::ring);
    CHECK_FALSE(made.has_been_asked());
    ring = make_communicator();
  }
  CHECK(ask(tree, kAllReduce) == only(0));
  CHECK(ask(ring, kAllReduce) == only(1));
  CHECK(ask(ring, kAllGather) == offered());
  CHECK(tuner_plugin().destroy(ring) == 0);
}

TEST_CASE(
    "communicators of others, and what NCCL has ruled out, stay NCCL's choice, which is told "
    "once") {
  CHECK(ask(make_communicator(), kAllReduce) == offered());
  const TunedCommunicators made(AllReduceAlgorithm::tree);
  void* const tree = make_communicator();
  Costs without_tree = offered();
  std::fill_n(without_tree.begin(), kProtocols, -1.0f);
  std::string told;
  {
    const scalecom::test::CapturedStderr log;
    CHECK(ask(tree, kAllReduce, without_tree) == without_tree);
    CHECK(ask(tree, kAllReduce, without_tree) == without_tree);
    told = log.text();
  }
  const std::string setting = "SCALECOM_ALLREDUCE_ALGORITHM is double_tree";
  CHECK(told.find(setting) != std::string::npos);
  CHECK(told.find(setting) == told.rfind(setting));
  CHECK(told.find("NCCL_ALGO") != std::string::npos);
}

TEST_CASE("names of algorithms mean the same on the GPU where NCCL has them") {
  CHECK(all_reduce_algorithm_of("ring") == AllReduceAlgorithm::ring);
  CHECK(all_reduce_algorithm_of("double_tree") == AllReduceAlgorithm::tree);
  for (const char* name : {"auto", "direct", "halving_doubling", "mpi"}) {
    CHECK(all_reduce_algorithm_of(name) == AllReduceAlgorithm::own_choice);
  }
}

TEST_CASE("NCCL is given the file that has the plugin") {
  CHECK(tuner_library().find("unit_nccl") != std::string::npos);
}
