#include "collective/cost_model.hpp"

#include "collective/selector.hpp"
#include "collective/tuning.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Matchers::WithinRel;

namespace {

// Whole numbers: a step is 10 s, a byte travels 1 s and is reduced in half a second.
constexpr LinkCosts kSlow{.latency_s = 10.0, .bytes_per_s = 1.0, .reduce_bytes_per_s = 2.0};
constexpr std::int64_t kBytes = 8192;

double all_reduce_s(AllReduceAlgorithm algorithm, int ranks, std::int64_t bytes = kBytes) {
  return all_reduce_time_s(algorithm, bytes, ranks, kSlow);
}

LinkCosts link(double latency_s, double bytes_per_s) {
  return {.latency_s = latency_s, .bytes_per_s = bytes_per_s, .reduce_bytes_per_s = 8e9};
}

}  // namespace

TEST_CASE("all-reduce times are Hockney's formulas") {
  using enum AllReduceAlgorithm;
  // 14 steps; 2 x 7/8 of 8192 bytes travel, 7/8 are reduced.
  CHECK_THAT(all_reduce_s(ring, 8), WithinRel(140 + 14336 + 3584.0));
  CHECK_THAT(all_reduce_s(halving_doubling, 8), WithinRel(60 + 14336 + 3584.0));
  CHECK_THAT(all_reduce_s(recursive_doubling, 8), WithinRel(3 * (10 + 8192 + 4096.0)));
  CHECK_THAT(all_reduce_s(direct, 8), WithinRel(20 + 14336 + 3584.0));
  CHECK_THAT(all_reduce_s(direct, 8, 1000), WithinRel(10 + 7 * 1500.0));
  // 6 chunks of delay, of the whole 8192 bytes.
  CHECK_THAT(all_reduce_s(double_tree, 8), WithinRel(6 * (10 + 8192) + 2 * 8192 + 4096.0));
}

TEST_CASE("ranks beyond a power of two cost two steps and the vector twice") {
  using enum AllReduceAlgorithm;
  const double fold = 2 * (10 + 8192) + 4096.0;
  CHECK_THAT(all_reduce_s(recursive_doubling, 6), WithinRel(2 * (10 + 8192 + 4096.0) + fold));
  CHECK_THAT(all_reduce_s(halving_doubling, 6), WithinRel(40 + 0.75 * (2 * 8192 + 4096.0) + fold));
}

TEST_CASE("broadcast and reduce-scatter times are Hockney's formulas") {
  CHECK_THAT(broadcast_time_s(BroadcastAlgorithm::binomial, 100, 5, kSlow), WithinRel(330.0));
  CHECK_THAT(broadcast_time_s(BroadcastAlgorithm::chain, 100, 5, kSlow), WithinRel(440.0));
  CHECK_THAT(broadcast_time_s(BroadcastAlgorithm::chain, 122'880, 3, kSlow),
             WithinRel(10 + 61'440 + 10 + 122'880.0));
  CHECK_THAT(reduce_scatter_time_s(ReduceScatterAlgorithm::direct, 800, 8, kSlow),
             WithinRel(10 + 700 + 350.0));
  CHECK_THAT(reduce_scatter_time_s(ReduceScatterAlgorithm::pairwise, 800, 8, kSlow),
             WithinRel(70 + 700.0));
}

TEST_CASE("a rank alone needs no time") {
  CHECK(all_reduce_s(AllReduceAlgorithm::ring, 1) == 0.0);
  CHECK(broadcast_time_s(BroadcastAlgorithm::chain, 100, 1, kSlow) == 0.0);
  CHECK(reduce_scatter_time_s(ReduceScatterAlgorithm::direct, 100, 1, kSlow) == 0.0);
}

TEST_CASE("shared memory: one step over n vectors, or three over three") {
  const InsideCosts costs{.latency_s = 1.0, .copy_bytes_per_s = 10.0};
  CHECK_THAT(flat_time_s(100, 4, costs), WithinRel(41.0));
  CHECK_THAT(blocks_time_s(100, costs), WithinRel(33.0));
}

TEST_CASE("blocks under way hide the latency of all but the first") {
  const InsideCosts inside{.latency_s = 1.0, .copy_bytes_per_s = 100.0};
  const BlockPipeline pipeline{
      .algorithm = AllReduceAlgorithm::ring, .hosts = 2, .block_bytes = 100, .blocks_under_way = 4};
  // A block of 2 hosts: 20 s of latency, 100 of travel, 25 of reduction. Inside: 2 + 2.
  CHECK_THAT(pipeline_time_s(pipeline, 100, kSlow, inside), WithinRel(4 + 145.0));
  CHECK_THAT(pipeline_time_s(pipeline, 300, kSlow, inside), WithinRel(4 + 145 + 2 * 125.0));
  const LinkCosts far{.latency_s = 1000.0, .bytes_per_s = 1.0, .reduce_bytes_per_s = 2.0};
  CHECK_THAT(pipeline_time_s(pipeline, 200, far, inside), WithinRel(4 + 2125 + 2125 / 4.0));
}

TEST_CASE("a longer vector never takes less time, nor does a slower link") {
  using enum AllReduceAlgorithm;
  for (const AllReduceAlgorithm algorithm : all_reduce_algorithms()) {
    for (const int ranks : {2, 5, 8, 100}) {
      double before = 0.0;
      // From where `direct` changes from one step to two it may take less time once.
      for (std::int64_t bytes = 4096; bytes <= 1 << 28; bytes *= 2) {
        const double time_s = all_reduce_time_s(algorithm, bytes, ranks, link(1e-5, 1e9));
        CHECK(time_s > before);
        CHECK(all_reduce_time_s(algorithm, bytes, ranks, link(2e-5, 1e9)) > time_s);
        CHECK(all_reduce_time_s(algorithm, bytes, ranks, link(1e-5, 5e8)) > time_s);
        before = time_s;
      }
    }
  }
}

TEST_CASE("the more latency, the longer the vectors that go in few steps") {
  for (const int ranks : {5, 8, 24, 64}) {
    std::int64_t before = 0;
    for (const double latency_s : {1e-6, 1e-5, 1e-4, 1e-3}) {
      std::int64_t longest = 0;
      for (std::int64_t bytes = 64; bytes <= 1 << 28; bytes *= 2) {
        const auto chosen = select_all_reduce_steps(bytes, ranks, link(latency_s, 1e9));
        if (chosen == AllReduceAlgorithm::recursive_doubling) longest = bytes;
      }
      CHECK(longest >= before);
      before = longest;
    }
    CHECK(before > 64);
  }
}

TEST_CASE("a block between hosts is a slot, and smaller where copying it costs more than latency") {
  const InsideCosts inside{.latency_s = 2e-6, .copy_bytes_per_s = 10e9};
  constexpr std::size_t kSlot = 512 << 10;
  CHECK(choose_between_block_bytes(2, kSlot, link(1e-3, 1e9), inside) == kSlot);
  CHECK(choose_between_block_bytes(2, kSlot, link(1e-7, 1e10),
                                   {.latency_s = 1e-7, .copy_bytes_per_s = 1e9}) < kSlot);
  CHECK(Tuning::defaults(2, kSlot).between_block_bytes == kSlot);
}
