#include "compress/residual_store.hpp"

#include "tests/support/catch.hpp"

using namespace scalecom;

TEST_CASE("a residual starts at zero and is found again by process set and name") {
  ResidualStore store;
  ResidualStore::Entry& entry = store.acquire(0, "w", {2, 3});
  CHECK(entry.values == std::vector<float>(6, 0.0f));
  CHECK(entry.next_step == 0);
  entry.values[1] = 5.0f;
  CHECK(store.acquire(0, "w", {2, 3}).values[1] == 5.0f);
  CHECK(store.acquire(1, "w", {2, 3}).values[1] == 0.0f);
  CHECK(store.find(0, "v") == nullptr);
  REQUIRE(store.find(0, "w") != nullptr);
  CHECK(store.find(0, "w")->shape == Shape{2, 3});
  CHECK(store.entries().size() == 2);
  CHECK(store.reset_count() == 0);
}

TEST_CASE("a change of shape drops the residual and is counted, the same count included") {
  ResidualStore store;
  store.acquire(0, "w", {2, 3}).values[0] = 1.0f;
  CHECK(store.acquire(0, "w", {3, 2}).values == std::vector<float>(6, 0.0f));
  CHECK(store.reset_count() == 1);
  store.acquire(0, "empty", {0});
  store.acquire(0, "empty", {0});
  CHECK(store.reset_count() == 1);
  store.acquire(0, "empty", {4});
  CHECK(store.reset_count() == 2);
}

TEST_CASE("a restored residual replaces the present one, values and step") {
  ResidualStore store;
  store.acquire(0, "w", {3}).values[0] = 1.0f;
  store.restore(0, "w", {{3}, {7.0f, 8.0f, 9.0f}, 42});
  const ResidualStore::Entry& entry = store.acquire(0, "w", {3});
  CHECK(entry.values == std::vector<float>{7.0f, 8.0f, 9.0f});
  CHECK(entry.next_step == 42);
  CHECK(store.reset_count() == 0);
}
