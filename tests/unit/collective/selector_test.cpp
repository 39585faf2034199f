#include "collective/selector.hpp"

#include "collective/tuning.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

TEST_CASE("few ranks reduce directly, in rank order, at every size") {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const std::int64_t bytes : {0LL, 4LL, 1LL << 20, 1LL << 33}) {
      CHECK(select_all_reduce(bytes, ranks, "auto") == AllReduceAlgorithm::direct);
    }
  }
}

TEST_CASE("the algorithm changes with the size: latency first, then bytes") {
  CHECK(select_all_reduce(4, 8, "auto") == AllReduceAlgorithm::recursive_doubling);
  CHECK(select_all_reduce(60'000, 8, "auto") == AllReduceAlgorithm::halving_doubling);
  CHECK(select_all_reduce(1 << 24, 6, "auto") == AllReduceAlgorithm::ring);
  CHECK(select_all_reduce(1 << 24, 500, "auto") == AllReduceAlgorithm::double_tree);
  CHECK(select_broadcast(1000, 8) == BroadcastAlgorithm::binomial);
  CHECK(select_broadcast(1 << 24, 8) == BroadcastAlgorithm::chain);
  CHECK(select_broadcast(1 << 24, 2) == BroadcastAlgorithm::binomial);
  CHECK(select_reduce_scatter(1 << 24, 4) == ReduceScatterAlgorithm::direct);
  CHECK(select_reduce_scatter(1000, 8) == ReduceScatterAlgorithm::direct);
  CHECK(select_reduce_scatter(1 << 24, 8) == ReduceScatterAlgorithm::pairwise);
}

TEST_CASE(
    "a power of two of ranks never folds, so halving-doubling has a ring's bytes in less steps") {
  for (const int ranks : {8, 32, 512}) {
    CHECK(select_all_reduce(1 << 26, ranks, "auto") == AllReduceAlgorithm::halving_doubling);
  }
}

TEST_CASE("the measured link decides") {
  const LinkCosts far{.latency_s = 1e-3, .bytes_per_s = 1e9, .reduce_bytes_per_s = 8e9};
  CHECK(select_all_reduce(60'000, 8, "auto", far) == AllReduceAlgorithm::recursive_doubling);
  CHECK(select_broadcast(1 << 20, 8, far) == BroadcastAlgorithm::binomial);
  CHECK(select_reduce_scatter(1 << 20, 8, far) == ReduceScatterAlgorithm::direct);
}

TEST_CASE("what is reduced piecemeal has steps") {
  for (const int ranks : {2, 5, 100, 500}) {
    for (std::int64_t bytes = 4; bytes <= 1 << 28; bytes *= 4) {
      CHECK(select_all_reduce_steps(bytes, ranks) != AllReduceAlgorithm::double_tree);
    }
  }
}

TEST_CASE("a named algorithm is taken as it is, an unknown one is refused with the allowed names") {
  CHECK(select_all_reduce(4, 2, "ring") == AllReduceAlgorithm::ring);
  CHECK_THROWS_WITH(select_all_reduce(4, 2, "star"),
                    Catch::Contains("star") && Catch::Contains("auto, direct, ring"));
}

TEST_CASE("a vector is cut in as many blocks as can overlap, none very short or too long") {
  const ShmTuning tuning{.flat_bytes_max = 0, .block_bytes = 256 << 10};
  CHECK(tuning.block_bytes_for(1 << 10) == 64 << 10);
  CHECK(tuning.block_bytes_for(400 << 10) == 100 << 10);
  CHECK(tuning.block_bytes_for((400 << 10) + 4) == (100 << 10) + 64);
  CHECK(tuning.block_bytes_for(1 << 20) == 256 << 10);
  CHECK(tuning.block_bytes_for(64 << 20) == 256 << 10);
  CHECK(ShmTuning{.flat_bytes_max = 0, .block_bytes = 4096}.block_bytes_for(1 << 20) == 4096);
}
