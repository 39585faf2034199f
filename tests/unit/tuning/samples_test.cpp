#include "runtime/tuning/samples.hpp"

#include <limits>

#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

constexpr std::size_t kSlot = 512 << 10;
const Tuning kDefaults = Tuning::defaults(2, kSlot);

Tuning choose(const Samples& samples, int hosts = 1) {
  return choose_tuning(kDefaults, samples, hosts, kSlot);
}

}  // namespace

TEST_CASE("without figures the defaults stay") { CHECK(choose({}) == kDefaults); }

TEST_CASE("of one figure's several times the shortest counts") {
  Samples figures;
  for (const double time_s : {3.0, 1.0, 2.0}) note(figures, "a", time_s);
  note(figures, "b", 5.0);
  CHECK(figures == Samples{{"a", 1.0}, {"b", 5.0}});
}

TEST_CASE("of each figure the slowest rank's counts") {
  const std::vector<Samples> by_rank{{{"a", 1.0}, {"b", 5.0}}, {{"a", 3.0}}, {{"b", 2.0}}};
  CHECK(slowest(by_rank) == Samples{{"a", 3.0}, {"b", 5.0}});
}

TEST_CASE("times become latencies, times of a byte become rates") {
  const Tuning tuning = choose({{samples::kMessage, 3e-5},
                                {samples::kMessageByte, 1e-8},
                                {samples::kReducedByte, 5e-10},
                                {samples::kInside, 1e-6},
                                {samples::kInsideByte, 2e-10},
                                {samples::swept(kPassChunk), 1e-9},
                                {samples::filled(kPassChunk), 4e-10}});
  CHECK(tuning.between_hosts.latency_s == 3e-5);
  CHECK(tuning.between_hosts.bytes_per_s == Approx(1e8));
  CHECK(tuning.between_hosts.reduce_bytes_per_s == Approx(2e9));
  CHECK(tuning.inside_host.latency_s == 1e-6);
  CHECK(tuning.inside_host.copy_bytes_per_s == Approx(5e9));
  CHECK(tuning.kernels.swept_elements_per_s == Approx(1e9));
  CHECK(tuning.kernels.filled_elements_per_s == Approx(2.5e9));
}

TEST_CASE("a selected element costs what short chunks take more, never less than a swept one") {
  // Of 1,000 elements 125 and 10 are selected. The sweep takes 1 ns an element, the fill 0.4.
  const auto taken_s = [](double short_swept_s, double short_filled_s) {
    const Tuning tuning = choose({{samples::swept(kPassChunk), 1e-9},
                                  {samples::filled(kPassChunk), 4e-10},
                                  {samples::swept(kShortChunk), short_swept_s},
                                  {samples::filled(kShortChunk), short_filled_s}});
    return 1.0 / tuning.kernels.taken_elements_per_s;
  };
  const double five_ns_each = 115e-3 * 5e-9;
  CHECK(taken_s(1e-9 + five_ns_each, 4e-10) == Approx(5e-9));
  CHECK(taken_s(1e-9, 4e-10 + five_ns_each) == Approx(5e-9));
  // Lost in noise.
  for (const double short_swept_s : {1e-9 + 0.01 * five_ns_each, 1e-9, 0.5e-9}) {
    CHECK(taken_s(short_swept_s, 4e-10) == Approx(1e-9));
  }
}

TEST_CASE("what a selected element costs stays as it was where one of its figures is missing") {
  const Samples all{{samples::swept(kPassChunk), 1e-9},
                    {samples::filled(kPassChunk), 1e-9},
                    {samples::swept(kShortChunk), 2e-9},
                    {samples::filled(kShortChunk), 2e-9}};
  for (const auto& [missing, time_s] : all) {
    Samples others = all;
    others.erase(missing);
    CHECK(choose(others).kernels.taken_elements_per_s == kDefaults.kernels.taken_elements_per_s);
  }
}

TEST_CASE("figures that are no times are left out") {
  for (const double wrong : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity()}) {
    CHECK(choose({{samples::kMessage, wrong}, {samples::kMessageByte, wrong}}) == kDefaults);
  }
}

TEST_CASE("flat ends below the first size that is faster in blocks") {
  Samples figures;
  for (std::size_t bytes = 16 << 10; bytes <= kSlot; bytes *= 2) {
    figures[samples::flat(bytes)] = 1e-9 * static_cast<double>(bytes);
    figures[samples::blocks(bytes)] =
        bytes >= 128 << 10 ? 0.5e-9 * static_cast<double>(bytes) : 1.0;
  }
  CHECK(choose(figures).shm.flat_bytes_max == 64 << 10);
  figures[samples::blocks(16 << 10)] = 1e-9;
  CHECK(choose(figures).shm.flat_bytes_max == 8 << 10);
}

TEST_CASE("flat goes on beyond the default while it is clearly faster, and noise changes nothing") {
  Samples figures;
  for (std::size_t bytes = 16 << 10; bytes <= kSlot; bytes *= 2) {
    figures[samples::flat(bytes)] = 1.0;
    figures[samples::blocks(bytes)] = bytes > kDefaults.shm.flat_bytes_max ? 1.03 : 0.97;
  }
  CHECK(choose(figures).shm.flat_bytes_max == kDefaults.shm.flat_bytes_max);
  figures[samples::blocks(kSlot)] = 2.0;
  CHECK(choose(figures).shm.flat_bytes_max == kSlot);
  // Stopped by the budget before the sizes of the default: that stays.
  CHECK(choose({{samples::flat(16 << 10), 1.0}, {samples::blocks(16 << 10), 2.0}})
            .shm.flat_bytes_max == kDefaults.shm.flat_bytes_max);
}

TEST_CASE("blocks are those of the default unless others are clearly faster") {
  Samples figures{{samples::block(kSlot), 1.0}, {samples::block(kSlot / 2), 0.97}};
  CHECK(choose(figures).shm.block_bytes == kSlot);
  figures[samples::block(kSlot / 4)] = 0.6;
  figures[samples::block(kSlot / 8)] = 0.7;
  CHECK(choose(figures).shm.block_bytes == kSlot / 4);
}

TEST_CASE("between hosts a block is chosen by the model, inside one it stays") {
  const Samples figures{{samples::kMessage, 1e-7},
                        {samples::kMessageByte, 1e-10},
                        {samples::kInside, 1e-7},
                        {samples::kInsideByte, 1e-9}};
  CHECK(choose(figures, 1).between_block_bytes == kSlot);
  CHECK(choose(figures, 2).between_block_bytes < kSlot);
}
