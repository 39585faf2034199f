#include "compress/residual_store.hpp"

#include "tests/support/catch.hpp"

using namespace scalecom;

TEST_CASE("a residual starts at zero and is found again by its name") {
  ResidualStore store;
  ResidualStore::Entry& entry = store.acquire("w", {2, 3});
  CHECK(entry.copy() == std::vector<float>(6, 0.0f));
  CHECK(entry.in_host() == std::vector<float>(6, 0.0f));
  CHECK(entry.next_step == 0);
  entry.in_host()[1] = 5.0f;
  CHECK(store.acquire("w", {2, 3}).copy()[1] == 5.0f);
  CHECK(store.acquire("u", {2, 3}).copy()[1] == 0.0f);
  CHECK(store.find("v") == nullptr);
  REQUIRE(store.find("w") != nullptr);
  CHECK(store.find("w")->shape == Shape{2, 3});
  CHECK(store.entries().size() == 2);
  CHECK(store.reset_count() == 0);
}

TEST_CASE("residuals are found by their names in every order, new ones among them") {
  ResidualStore store;
  const Shape shape{1};
  const std::vector<std::string> steps[] = {{"a", "b", "c"},
                                            {"a", "b", "c"},
                                            {"c", "a", "b"},
                                            {"a", "d", "b", "b", "c"},
                                            {"a", "b", "c"}};
  for (const auto& step : steps) {
    for (const std::string& name : step) {
      ResidualStore::Entry& entry = store.acquire(name, shape);
      CHECK(&entry == store.find(name));
      CHECK(&entry == &store.entries().find(name)->second);
    }
  }
  CHECK(store.entries().size() == 4);
  CHECK(store.find("e") == nullptr);
}

TEST_CASE("what was restored from another store does not lead there") {
  ResidualStore other;
  other.acquire("a", {1});
  other.acquire("b", {1});
  ResidualStore store;
  store.restore("a", other.acquire("a", {1}));
  store.acquire("a", {1});
  const ResidualStore::Entry& found = store.acquire("b", {1});
  CHECK(&found == store.find("b"));
}

TEST_CASE("a change of shape drops the residual and is counted, the same count included") {
  ResidualStore store;
  store.acquire("w", {2, 3}).in_host()[0] = 1.0f;
  CHECK(store.acquire("w", {3, 2}).in_host() == std::vector<float>(6, 0.0f));
  CHECK(store.reset_count() == 1);
  store.acquire("empty", {0});
  store.acquire("empty", {0});
  CHECK(store.reset_count() == 1);
  store.acquire("empty", {4});
  CHECK(store.reset_count() == 2);
}

TEST_CASE("a restored residual replaces the present one, values and step") {
  ResidualStore store;
  store.acquire("w", {3}).in_host()[0] = 1.0f;
  ResidualStore::Entry restored;
  restored.shape = {3};
  restored.values = {7.0f, 8.0f, 9.0f};
  restored.next_step = 42;
  store.restore("w", std::move(restored));
  const ResidualStore::Entry& entry = store.acquire("w", {3});
  CHECK(entry.copy() == std::vector<float>{7.0f, 8.0f, 9.0f});
  CHECK(entry.next_step == 42);
  CHECK(store.reset_count() == 0);
}

namespace {

class Elsewhere final : public ResidualMemory {
 public:
  std::vector<float> read() const override { return values; }
  void scale(double multiply, double divide) override {
    for (float& value : values) value = static_cast<float>(value * multiply / divide);
  }
  std::vector<float> values{1.0f, 2.0f};
};

}  // namespace

TEST_CASE("a residual that is elsewhere is scaled there, copied from there, and comes back") {
  ResidualStore store;
  ResidualStore::Entry& entry = store.acquire("w", {2});
  entry.elsewhere = std::make_shared<Elsewhere>();
  entry.is_zero = false;
  entry.beta = 0.5;
  entry.filter_by(1.0);
  CHECK(entry.copy() == std::vector<float>{2.0f, 4.0f});
  CHECK(entry.elsewhere != nullptr);
  CHECK(entry.in_host() == std::vector<float>{2.0f, 4.0f});
  CHECK(entry.elsewhere == nullptr);
  entry.elsewhere = std::make_shared<Elsewhere>();
  CHECK(store.acquire("w", {3}).copy() == std::vector<float>(3, 0.0f));
}
