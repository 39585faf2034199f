// The C interface as a program of one process calls it: what it refuses, and that a refused call
// has done nothing.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "scalecom/c_api.h"
#include "tests/support/catch.hpp"

using Catch::Contains;

namespace {

constexpr int kInvalidArgument = 1;
constexpr std::int32_t kFloat32 = 6;

/// One process's membership in a job of its own.
struct Membership {
  Membership() { REQUIRE(scalecom_init() == 0); }
  ~Membership() { scalecom_shutdown(); }
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;
};

void check_refused(int code, const std::string& text) {
  CHECK(code == kInvalidArgument);
  CHECK_THAT(scalecom_last_error(), Contains(text));
}

int meet_nobody(void*, const void*, int64_t, double, scalecom_exchanged*) { return 0; }

std::int32_t connect_alone() {
  const std::int32_t rank = 0;
  std::int32_t id = -1;
  REQUIRE(scalecom_process_set_connect(&rank, 1, meet_nobody, nullptr, &id) == 0);
  return id;
}

std::string explain(std::int64_t count, std::int32_t dtype, std::int32_t device_kind,
                    const scalecom_compression& compression) {
  char* json = nullptr;
  const int code = scalecom_explain_compression(count, dtype, device_kind, &compression, &json);
  scalecom_free(json);
  return code == 0 ? "" : scalecom_last_error();
}

}  // namespace

TEST_CASE("a process set without a place for its number is not made") {
  const Membership membership;
  const std::int32_t rank = 0;
  const std::int32_t first = connect_alone();
  check_refused(scalecom_process_set_connect(&rank, 1, meet_nobody, nullptr, nullptr),
                "id is NULL");
  CHECK(connect_alone() == first + 1);
}

TEST_CASE("a connected process set is left, not removed") {
  const Membership membership;
  const std::int32_t id = connect_alone();
  check_refused(scalecom_process_set_remove(id), "leave it");
  CHECK(scalecom_process_set_leave(id) == 0);
  check_refused(scalecom_process_set_leave(id), "there is no process set");
}

TEST_CASE("bytes of an exchange need a place") {
  const char byte = 1;
  check_refused(scalecom_exchanged_put(nullptr, 0, &byte, 1), "all is NULL");
}

TEST_CASE("no explanation is given of a tensor that all_reduce would refuse") {
  const Membership membership;
  const scalecom_compression sharded{2, 100, 1.0, 0, kFloat32, 0.0, 0};
  CHECK(explain(1000, kFloat32, 0, sharded).empty());
  CHECK_THAT(explain(-1, kFloat32, 0, sharded), Contains("count is -1"));
  CHECK_THAT(explain(1000, kFloat32, 9, sharded), Contains("device kind 9 is not known"));
  CHECK_THAT(explain(1000, 77, 0, sharded), Contains("dtype 77 is not known"));
  CHECK_THAT(explain(std::numeric_limits<std::int64_t>::max(), kFloat32, 0, sharded),
             Contains("more bytes"));
  CHECK_THAT(explain(1000, 77, 0, {}), Contains("dtype 77 is not known"));
}

TEST_CASE("a compression of zeros hears which types its values may have") {
  const Membership membership;
  scalecom_compression compression{};
  compression.mode = 2;
  CHECK_THAT(explain(1000, kFloat32, 0, compression),
             Contains("compression values are 0 (uint8)") && Contains("float32 (6)"));
}
