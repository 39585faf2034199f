#include <array>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/session_world.hpp"

using namespace scalecom;
using test::SessionWorld;
using test::view_of;

namespace {

constexpr int kSize = 2;
constexpr std::size_t kQueued = 64;
constexpr std::size_t kCount = 64 << 10;

AllReduceOptions sum_with(std::int32_t priority) {
  AllReduceOptions options;
  options.op = ReduceOp::sum;
  options.priority = priority;
  return options;
}

/// A long all-reduce, many tensors behind it, and one more of the highest priority. This one and
/// the tensor in the middle of the queue write to the same memory, which shows who came last.
struct Attempt {
  bool is_queued = false;  ///< all was submitted before the long one was over
  float last = 0;
};

Attempt submit_all(Session& session, const std::string& attempt) {
  std::vector<float> blocker(8 << 20, 1.0f);
  std::vector<float> low(kCount, 1.0f);
  std::vector<float> urgent(kCount, 100.0f);
  std::vector<float> shared(kCount);
  std::vector<std::vector<float>> results(kQueued, std::vector<float>(kCount));
  const Ticket first =
      session.all_reduce("first" + attempt, view_of(blocker), view_of(blocker), sum_with(0));
  std::vector<Ticket> tickets;
  for (std::size_t i = 0; i < kQueued; ++i) {
    std::vector<float>& output = i == kQueued / 2 ? shared : results[i];
    tickets.push_back(session.all_reduce("low" + std::to_string(i) + attempt, view_of(low),
                                         view_of(output), sum_with(-1)));
  }
  const Ticket last =
      session.all_reduce("urgent" + attempt, view_of(urgent), view_of(shared), sum_with(1));
  Attempt result;
  result.is_queued = !first.is_ready();
  for (const Ticket& ticket : tickets) {
    if (!ticket.wait().is_ok()) throw std::runtime_error(ticket.wait().message());
  }
  if (!last.wait().is_ok()) throw std::runtime_error(last.wait().message());
  result.last = shared.back();
  return result;
}

}  // namespace

TEST_CASE("a ticket of high priority completes before a long queue") {
  Config config;
  config.fusion_threshold_bytes = kCount * sizeof(float);
  SessionWorld world(kSize, config);
  std::array<Attempt, kSize> attempts;
  // A busy machine may be done with the long one before all is submitted.
  for (int attempt = 0; attempt < 20; ++attempt) {
    test::run_ranks(kSize, [&](int rank) {
      attempts[static_cast<std::size_t>(rank)] =
          submit_all(world[rank], "." + std::to_string(attempt));
    });
    if (attempts[0].is_queued && attempts[1].is_queued) break;
  }
  REQUIRE(attempts[0].is_queued);
  REQUIRE(attempts[1].is_queued);
  for (const Attempt& attempt : attempts) CHECK(attempt.last == 2.0f);
}

TEST_CASE("dense and compressed tensors of one step keep to their priorities, also when repeated") {
  Config config;
  config.fusion_threshold_bytes = 256;
  SessionWorld world(kSize, config);
  constexpr int kTensors = 8;
  constexpr int kSteps = 12;
  std::array<SessionStats, kSize> stats;
  test::run_ranks(kSize, [&](int rank) {
    for (int step = 0; step < kSteps; ++step) {
      std::vector<std::vector<float>> values(kTensors, std::vector<float>(100, 1.0f));
      std::vector<Ticket> tickets;
      for (int tensor = 0; tensor < kTensors; ++tensor) {
        auto& mine = values[static_cast<std::size_t>(tensor)];
        AllReduceOptions options = sum_with(tensor);
        if (tensor % 2 == 0) options.compression = {CompressionMode::cyclic, 1, 1.0, 2};
        tickets.push_back(world[rank].all_reduce("t" + std::to_string(tensor), view_of(mine),
                                                 view_of(mine), options));
      }
      for (const Ticket& ticket : tickets) {
        if (!ticket.wait().is_ok()) throw std::runtime_error(ticket.wait().message());
      }
      for (const auto& mine : values) {
        if (mine != std::vector<float>(100, 2.0f)) throw std::runtime_error("a sum is wrong");
      }
    }
    stats[static_cast<std::size_t>(rank)] = world[rank].stats();
  });
  for (const SessionStats& one : stats) {
    CHECK(one.steady_agreements > 0);
    CHECK(one.compressed_tensors >= kTensors / 2 * (kSteps - 2));
  }
}
