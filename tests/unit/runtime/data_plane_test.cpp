#include "runtime/data_plane.hpp"

#include <array>
#include <future>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/thread_bootstrap.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

constexpr int kSize = 2;
constexpr double kLongLimit_s = 60.0;
constexpr double kShortLimit_s = 3.0;  // of a measurement that somebody is held up in
constexpr std::size_t kCount = 300'000;

// Holds rank 1 up before the measurement until rank 0 has given up on it.
struct HoldUp {
  int round = -1;  // the exchange before the measurement; -1: nobody is held up
  std::promise<void> rank_0_gave_up;
};

class HeldUpBootstrap final : public Bootstrap {
 public:
  HeldUpBootstrap(Exchange& exchange, int rank, HoldUp& hold)
      : inner_(exchange, rank, kSize), hold_(hold) {}

  int rank() const noexcept override { return inner_.rank(); }
  int size() const noexcept override { return kSize; }
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) override {
    if (hold_.round >= 0 && rank() == 0 && round_ == hold_.round + 1) {
      hold_.rank_0_gave_up.set_value();
    }
    auto blobs = inner_.exchange(mine, limit);
    if (rank() == 1 && round_ == hold_.round) {
      hold_.rank_0_gave_up.get_future().wait_for(std::chrono::seconds(30));
    }
    ++round_;
    return blobs;
  }

 private:
  ThreadBootstrap inner_;
  HoldUp& hold_;
  int round_ = 0;
};

// A new loopback world for each transport that the ranks make.
using Worlds = std::array<LoopbackWorld, 2>;

struct Outcome {
  std::string source;
  Tuning tuning;
  std::size_t transports = 0;
  bool were_two_open = false;
  float sum = 0.0f;
};

// Makes the data plane of two ranks on one host and sums over it.
std::vector<Outcome> run_world(bool shared_memory, HoldUp& hold, double limit_s) {
  const std::vector<HostFacts> facts(kSize, {"here", "one", {"127.0.0.1"}});
  Exchange exchange(kSize);
  Worlds worlds{LoopbackWorld(kSize), LoopbackWorld(kSize)};
  std::vector<Outcome> outcomes(kSize);
  run_ranks(kSize, [&](int rank) {
    HeldUpBootstrap bootstrap(exchange, rank, hold);
    SessionParts parts;
    parts.config.shared_memory = shared_memory;
    parts.config.connect_timeout_s = limit_s;
    parts.config.cache_directory.clear();
    parts.topology = make_topology(rank, facts);
    const ControlOptions options{.connect_timeout = Bootstrap::Limit(limit_s),
                                 .peer_timeout = Bootstrap::Limit(5.0)};
    std::size_t made = 0;
    bool were_two_open = false;
    const auto make_transport = [&] {
      were_two_open = were_two_open || parts.transport != nullptr;
      return worlds.at(made++).make_transport(rank);
    };
    const HostRanks hosts = make_data_plane(parts, {bootstrap, facts, options, make_transport});
    parts.collectives = make_collectives(parts, hosts);
    std::vector<float> values(kCount, static_cast<float>(rank + 1));
    const WaitContext context{Deadline::after(std::chrono::seconds(20))};
    parts.collectives->all_reduce(std::as_writable_bytes(std::span(values)), DataType::float32,
                                  ReduceOp::sum, context);
    const bool are_equal =
        std::all_of(values.begin(), values.end(), [&](float v) { return v == values.front(); });
    outcomes[static_cast<std::size_t>(rank)] = {parts.report.tuning_source, parts.tuning, made,
                                                were_two_open, are_equal ? values.front() : -1};
  });
  return outcomes;
}

}  // namespace

TEST_CASE("after a measurement that ended by its deadline the ranks begin anew, in step") {
  const bool shared_memory = GENERATE(true, false);
  // Sharing memory takes two exchanges, the look for a file one.
  HoldUp hold{.round = shared_memory ? 2 : 0, .rank_0_gave_up = {}};
  const auto outcomes = run_world(shared_memory, hold, kShortLimit_s);
  for (const Outcome& outcome : outcomes) {
    CHECK(outcome.source == "defaults");
    CHECK(outcome.tuning == outcomes.front().tuning);
    CHECK(outcome.transports == 2);
    CHECK_FALSE(outcome.were_two_open);
    CHECK(outcome.sum == 3.0f);
  }
}

TEST_CASE("a measurement that succeeds leaves board and transport to the session, in step") {
  const bool shared_memory = GENERATE(true, false);
  HoldUp nobody;
  for (const Outcome& outcome : run_world(shared_memory, nobody, kLongLimit_s)) {
    CHECK(outcome.source == "measured now");
    CHECK(outcome.transports == 1);
    CHECK(outcome.sum == 3.0f);
  }
}
