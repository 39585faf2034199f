// Arrays that are converted on an accelerator, against the CPU.

#include "tests/gpu/arena.hpp"
#include "tests/gpu/random_tensors.hpp"
#include "tests/support/step_on_host.hpp"

using namespace scalecom;
using test::Arena;
using test::one_of;

namespace {

constexpr std::int64_t kCounts[] = {0, 1, 255, 256, 257, 70001};

}  // namespace

TEST_CASE("widened values equal the CPU's", "[light]") {
  for (const DataType dtype : test::kFloats) {
    for (const std::int64_t count : kCounts) {
      CAPTURE(to_string(dtype), count);
      std::mt19937_64 generator(11);
      Arena arena;
      const std::size_t source = arena.add(dtype, count, 1);
      const std::size_t wide = arena.add(DataType::float32, count, 0);
      arena.allocate();
      test::fill_values(arena.host(source), dtype, count, test::Values::nonfinite, generator);
      arena.upload();
      arena.accelerator().widen(arena.device<float>(wide), arena.device(source), dtype, count,
                                arena.stream());
      kernels::widen(arena.host<float>(wide), arena.host(source), dtype, count);
      CHECK(arena.differences() == "");
    }
  }
}

TEST_CASE("a mark is one where something was counted, and zero elsewhere", "[light]") {
  for (const DataType dtype : test::kFloats) {
    for (const std::int64_t count : kCounts) {
      CAPTURE(to_string(dtype), count);
      std::mt19937_64 generator(13);
      Arena arena;
      const std::size_t counts = arena.add(DataType::int64, count, 0);
      const std::size_t marks = arena.add(dtype, count, 1);
      arena.allocate();
      constexpr std::int64_t kKinds[] = {0, 0, 1, 7, std::int64_t{1} << 40};
      for (std::int64_t i = 0; i < count; ++i) {
        arena.host<std::int64_t>(counts)[i] = one_of(kKinds, generator);
      }
      arena.upload();
      arena.accelerator().mark(arena.device(marks), dtype, arena.device<std::int64_t>(counts),
                               count, arena.stream());
      test::mark_on_host(arena.host(marks), dtype, arena.host<std::int64_t>(counts), count);
      CHECK(arena.differences() == "");
    }
  }
}

TEST_CASE("values that are NaN or Inf are counted", "[light]") {
  for (const DataType dtype : test::kFloats) {
    for (const std::int64_t count : {0, 1, 257, 70001, 1'000'003}) {
      for (const test::Values kind : {test::Values::normal, test::Values::nonfinite}) {
        CAPTURE(to_string(dtype), count);
        std::mt19937_64 generator(19);
        Arena arena;
        const std::size_t values = arena.add(dtype, count, 1);
        const std::size_t found = arena.add(DataType::int64, 1, 0);
        arena.allocate();
        test::fill_values(arena.host(values), dtype, count, kind, generator);
        *arena.host<std::int64_t>(found) = 5;
        arena.upload();
        arena.accelerator().count_nonfinite(arena.device<std::int64_t>(found), arena.device(values),
                                            dtype, count, arena.stream());
        test::count_nonfinite_on_host(arena.host<std::int64_t>(found), arena.host(values), dtype,
                                      count);
        CHECK(arena.differences() == "");
      }
    }
  }
}

TEST_CASE("offsets come back from the wire, turned, in one byte each below 256", "[light]") {
  for (const std::int64_t wire_bytes : {1, 2}) {
    for (const std::int64_t count : kCounts) {
      CAPTURE(wire_bytes, count);
      std::mt19937_64 generator(17);
      Arena arena;
      const DataType on_wire = wire_bytes == 1 ? DataType::uint8 : DataType::int16;
      const std::size_t offsets = arena.add(DataType::int16, count, 1);
      const std::size_t wire = arena.add(on_wire, count, 3);
      const std::size_t back = arena.add(DataType::int16, count, 0);
      arena.allocate();
      auto* const own = arena.host<std::uint16_t>(offsets);
      for (std::int64_t i = 0; i < count; ++i) {
        own[i] = static_cast<std::uint16_t>(generator() % (wire_bytes == 1 ? 256 : 65536));
      }
      arena.upload();
      const std::int64_t first = count / 3;
      Accelerator& accelerator = arena.accelerator();
      accelerator.pack_offsets(arena.device(wire), wire_bytes, arena.device<std::uint16_t>(offsets),
                               count, arena.stream());
      accelerator.unpack_offsets(arena.device<std::uint16_t>(back), arena.device(wire), wire_bytes,
                                 count, first, arena.stream());
      test::pack_offsets_on_host(arena.host(wire), wire_bytes, own, count);
      auto* const returned = arena.host<std::uint16_t>(back);
      for (std::int64_t i = 0; i < count; ++i) returned[(i + first) % count] = own[i];
      CHECK(arena.differences() == "");
    }
  }
}
