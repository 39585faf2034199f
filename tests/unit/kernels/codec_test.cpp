#include <random>

#include "compress/offset_codec.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

TEST_CASE("one element a chunk is selected, the short last chunk included") {
  CHECK(selected_count(0, 100) == 0);
  CHECK(selected_count(1, 100) == 1);
  CHECK(selected_count(100, 100) == 1);
  CHECK(selected_count(101, 100) == 2);
  CHECK(selected_count(7, 1) == 7);
  CHECK(selected_count(std::int64_t{1} << 40, 65536) == std::int64_t{1} << 24);
}

TEST_CASE("offsets take 8 bits up to a chunk of 256 elements, 16 above") {
  CHECK(encoded_bytes(256000, 256) == 1000);
  CHECK(encoded_bytes(257000, 257) == 2000);
  CHECK(encoded_bytes(65537, 65536) == 4);
  CHECK(encoded_bytes(5, 1) == 5);
  CHECK(encoded_bytes(0, 400) == 0);
}

TEST_CASE("decoding gives what was encoded, in the bytes that were promised") {
  std::mt19937 generator(29);
  for (const std::int64_t rate : {1, 2, 100, 255, 256, 257, 1000, 65535, 65536}) {
    for (const std::int64_t chunks : {0, 1, 2, 1009}) {
      const std::int64_t count = chunks * rate;
      std::vector<std::uint16_t> offsets;
      for (std::int64_t j = 0; j < chunks; ++j) {
        offsets.push_back(static_cast<std::uint16_t>(generator() % static_cast<unsigned>(rate)));
      }
      if (chunks > 0) offsets[0] = static_cast<std::uint16_t>(rate - 1);
      std::vector<std::byte> wire(static_cast<std::size_t>(encoded_bytes(count, rate)));
      encode_offsets(offsets, rate, wire);
      std::vector<std::uint16_t> decoded(offsets.size(), 1);
      decode_offsets(wire, count, rate, decoded);
      CAPTURE(rate, chunks);
      CHECK(decoded == offsets);
    }
  }
}

TEST_CASE("an offset outside of its chunk is an error, in a short last chunk too") {
  std::vector<std::uint16_t> decoded(2);
  const std::vector<std::byte> beyond = {std::byte{100}, std::byte{0}};
  CHECK_THROWS_WITH(decode_offsets(beyond, 200, 100, decoded), Contains("100"));
  const std::vector<std::byte> behind_the_end = {std::byte{99}, std::byte{50}};
  CHECK_THROWS_WITH(decode_offsets(behind_the_end, 150, 100, decoded), Contains("50"));
  CHECK_NOTHROW(decode_offsets(behind_the_end, 151, 100, decoded));
}
