// Steps that repeat run without negotiation, and what disturbs them leaves every result right.
#include <barrier>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>

#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr int kSteps = 60;
constexpr int kTensors = 9;

// The last third is compressed.
bool is_compressed(int tensor) { return tensor >= 6; }

std::size_t count_of(int tensor, int step, int reshaped_step) {
  const std::array<std::size_t, kTensors> counts{1, 700, 40'000, 3, 5'000, 17, 1'000, 333, 90};
  return counts[static_cast<std::size_t>(tensor)] + (tensor == 1 && step >= reshaped_step ? 5 : 0);
}

// Adds a rank's gradient, of whole numbers below 32, to `values`. A plain loop and no <random>:
// this is most of what the test computes, and a sanitizer's build runs it unoptimised.
void add_gradient(int rank, int tensor, int step, std::vector<float>& values) {
  auto state = static_cast<std::uint32_t>(rank * 7919 + tensor * 104'729 + step);
  float* const data = values.data();
  const std::size_t count = values.size();
  for (std::size_t i = 0; i < count; ++i) {
    state = state * 1'664'525u + 1'013'904'223u;
    data[i] += static_cast<float>(static_cast<int>(state >> 26) - 32);
  }
}

// What happens in a training, the same on all ranks but for the pace. From a seed.
struct Script {
  explicit Script(unsigned number) : seed(number) {
    std::mt19937 random(seed);
    extra_step = 10 + static_cast<int>(random() % 40);
    reshaped_step = 10 + static_cast<int>(random() % 40);
    barrier_step = 10 + static_cast<int>(random() % 40);
    slow_rank = static_cast<int>(random() % 4);
    slow_step = 10 + static_cast<int>(random() % 40);
  }
  unsigned seed;
  int extra_step;     // Another tensor comes in between.
  int reshaped_step;  // From here on a tensor has another shape.
  int barrier_step;
  int slow_rank;  // Waits for each tensor before it submits the next, from slow_step on.
  int slow_step;
};

struct Outcome {
  std::vector<std::vector<float>> compressed;  // Results, step after step.
  std::string wrong;
  SessionStats stats;
};

class Trainer {
 public:
  Trainer(Session& session, int rank, int size, const Script& script, double guard)
      : session_(session),
        rank_(rank),
        size_(size),
        script_(script),
        guard_(guard),
        pace_(script.seed * 31 + static_cast<unsigned>(rank)) {}

  Outcome train() {
    for (int step = 0; step < kSteps; ++step) run_step(step);
    outcome_.stats = session_.stats();
    return std::move(outcome_);
  }

 private:
  void run_step(int step) {
    std::vector<int> order(kTensors);
    std::iota(order.begin(), order.end(), 0);
    if (pace_() % 3 == 0) std::shuffle(order.begin(), order.end(), pace_);
    const bool is_slow = rank_ == script_.slow_rank && step >= script_.slow_step;
    std::vector<Ticket> tickets;
    for (const int tensor : order) {
      auto& data = values_[static_cast<std::size_t>(tensor)];
      data.assign(count_of(tensor, step, script_.reshaped_step), 0.0f);
      add_gradient(rank_, tensor, step, data);
      tickets.push_back(submit(tensor, data));
      if (is_slow) tickets.back().wait();
      if (pace_() % 8 == 0) std::this_thread::yield();
    }
    if (step == script_.extra_step) add_extra(step);
    if (step == script_.barrier_step && !session_.barrier().wait().is_ok())
      complain(step, "barrier");
    for (const Ticket& ticket : tickets) {
      if (const Status status = ticket.wait(); !status.is_ok()) complain(step, status.message());
    }
    for (int tensor = 0; tensor < kTensors; ++tensor) {
      const auto& data = values_[static_cast<std::size_t>(tensor)];
      if (is_compressed(tensor)) {
        outcome_.compressed.push_back(data);
      } else if (!is_sum(tensor, step, data)) {
        complain(step, "tensor " + std::to_string(tensor));
      }
    }
  }

  Ticket submit(int tensor, std::vector<float>& data) {
    AllReduceOptions options;
    options.op = ReduceOp::sum;
    if (is_compressed(tensor)) {
      options.compression = {CompressionMode::cyclic, 10, 0.5, 0, DataType::float32, guard_};
    }
    return session_.all_reduce("t" + std::to_string(tensor), view_of(data), view_of(data), options);
  }

  void add_extra(int step) {
    std::vector<float> one(10, 1.0f);
    AllReduceOptions sum;
    sum.op = ReduceOp::sum;
    const bool is_good =
        session_.all_reduce("extra", view_of(one), view_of(one), sum).wait().is_ok();
    if (!is_good || one[9] != static_cast<float>(size_)) complain(step, "the extra tensor");
  }

  bool is_sum(int tensor, int step, const std::vector<float>& data) {
    sum_.assign(data.size(), 0.0f);
    for (int rank = 0; rank < size_; ++rank) add_gradient(rank, tensor, step, sum_);
    return data == sum_;
  }

  void complain(int step, const std::string& what) {
    outcome_.wrong += "step " + std::to_string(step) + ": " + what + "; ";
  }

  Session& session_;
  const int rank_;
  const int size_;
  const Script script_;
  const double guard_;
  std::mt19937 pace_;
  std::vector<std::vector<float>> values_{kTensors};  // By tensor.
  std::vector<float> sum_;
  Outcome outcome_;
};

std::vector<Outcome> train(int size, const Script& script, int steady_steps, double guard) {
  Config config;
  config.steady_steps = steady_steps;
  config.health_steps = 2;
  SessionWorld world(size, config);
  std::vector<Outcome> outcomes(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    outcomes[static_cast<std::size_t>(rank)] =
        Trainer(world[rank], rank, size, script, guard).train();
  });
  return outcomes;
}

float largest_difference(const std::vector<std::vector<float>>& a,
                         const std::vector<std::vector<float>>& b) {
  float largest = 0.0f;
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < a[i].size(); ++j) {
      largest = std::max(largest, std::abs(a[i][j] - b[i][j]));
    }
  }
  return largest;
}

}  // namespace

TEST_CASE("a training that is disturbed while it runs without negotiation has the same results") {
  const int size = GENERATE(1, 2, 3, 4);
  const unsigned seed = GENERATE(range(1u, 1 + test::seeds_of(5)));
  // A guard that soon has every element travel, or none.
  const double guard = GENERATE(0.0, 0.01);
  CAPTURE(size, seed, guard);
  const test::CapturedStderr captured;  // Guards say what they do.
  const Script script(seed);
  const auto negotiated = train(size, script, 0, guard);
  const auto steady = train(size, script, 3, guard);
  for (std::size_t rank = 0; rank < steady.size(); ++rank) {
    CHECK(negotiated[rank].wrong == "");
    CHECK(steady[rank].wrong == "");
    CHECK(negotiated[rank].stats.steady_agreements == 0);
    CHECK(negotiated[rank].stats.guard_halvings == (guard > 0.0 ? 9 : 0));
    CHECK(steady[rank].stats.guard_halvings == negotiated[rank].stats.guard_halvings);
    // All ranks have the same bits. A step that was taken back rounds once.
    CHECK(steady[rank].compressed == steady[0].compressed);
    REQUIRE(steady[rank].compressed.size() == negotiated[rank].compressed.size());
    CHECK(largest_difference(steady[rank].compressed, negotiated[rank].compressed) < 1e-3f);
  }
}

TEST_CASE("equal steps send no control message, and the first unequal one is counted") {
  const int size = GENERATE(2, 3);
  SessionWorld world(size);
  std::vector<std::int64_t> messages(static_cast<std::size_t>(size));
  std::vector<SessionStats> stats(static_cast<std::size_t>(size));
  std::barrier have_counted(size);
  test::run_ranks(size, [&](int rank) {
    std::vector<float> values(100);
    const auto run = [&](const std::string& name, int calls) {
      for (int call = 0; call < calls; ++call) {
        if (!world[rank].all_reduce(name, view_of(values), view_of(values)).wait().is_ok()) {
          throw std::runtime_error(name);
        }
      }
    };
    run("w", 50);
    const std::int64_t before = world[rank].stats().control_messages_sent;
    run("w", 50);
    messages[static_cast<std::size_t>(rank)] = world[rank].stats().control_messages_sent - before;
    have_counted.arrive_and_wait();
    run("other", 1);
    stats[static_cast<std::size_t>(rank)] = world[rank].stats();
  });
  for (const std::int64_t sent : messages) CHECK(sent == 0);
  for (const SessionStats& rank_stats : stats) {
    CHECK(rank_stats.steady_agreements >= 90);
    CHECK(rank_stats.steady_leaves == 1);
    CHECK(rank_stats.tensors_completed == 101);
  }
}

TEST_CASE("a rank that is lost, or leaves, in the steady state ends it on the others in time") {
  const bool is_lost = GENERATE(true, false);
  const int leaver = GENERATE(0, 2);
  SessionWorld world(3);
  std::vector<Status> statuses(3);
  const TimePoint begin = Clock::now();
  test::run_ranks(3, [&](int rank) {
    std::vector<float> values(20'000);
    for (int step = 0; step < 100'000; ++step) {
      if (rank == leaver && step == 40) {
        if (is_lost) {
          world.lose(rank);
        } else {
          world[rank].shutdown();
        }
        return;
      }
      try {
        const Ticket ticket = world[rank].all_reduce("w", view_of(values), view_of(values));
        if (const Status status = ticket.wait(); !status.is_ok()) {
          statuses[static_cast<std::size_t>(rank)] = status;
          return;
        }
      } catch (const Error& error) {
        statuses[static_cast<std::size_t>(rank)] = error.status();
        return;
      }
    }
  });
  CHECK(Clock::now() - begin < std::chrono::seconds(20));
  for (int rank = 0; rank < 3; ++rank) {
    if (rank == leaver) continue;
    const Status& status = statuses[static_cast<std::size_t>(rank)];
    CHECK(status.code() == (is_lost ? StatusCode::rank_lost : StatusCode::shut_down));
    CHECK_THAT(status.message(), Catch::Contains("rank " + std::to_string(leaver)));
  }
}
