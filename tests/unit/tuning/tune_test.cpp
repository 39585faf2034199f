#include "runtime/tuning/tune.hpp"

#include <atomic>
#include <filesystem>
#include <fstream>

#include "tests/support/board_world.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/temporary_folder.hpp"
#include "tests/support/thread_bootstrap.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

constexpr std::size_t kSlot = 64 << 10;
// A sanitizer's passes over a model's size take seconds.
constexpr MeasurementPlan kShortPlan{.pass_elements = 1 << 18};

struct World {
  HostRanks hosts;
  std::string cache = {};
  Bootstrap::Limit limit{60.0};
  int absent = -1;  // a rank that measures nothing and only says so
  int dead = -1;    // a rank that does not even say so
  PassThreads threads = {};
};

TuningKey key_of(const World& world) {
  TuningKey key;
  key.version = "1";
  key.ranks = 0;
  key.transport = "loopback";
  key.thoroughness = "quick";
  for (const std::vector<int>& ranks : world.hosts) {
    key.hosts.push_back("host: " + std::to_string(ranks.size()));
    key.ranks += static_cast<int>(ranks.size());
  }
  return key;
}

// What every rank gets, by rank.
std::vector<TuningResult> run_tuning(const World& world) {
  int size = 0;
  std::vector<BoardWorld> boards;
  for (const std::vector<int>& ranks : world.hosts) {
    size += static_cast<int>(ranks.size());
    boards.emplace_back(static_cast<int>(ranks.size()), kSlot);
  }
  LoopbackWorld data(size);
  Exchange exchange(size);
  std::vector<TuningResult> results(static_cast<std::size_t>(size));
  run_ranks(size, [&](int rank) {
    if (rank == world.dead) return;
    ThreadBootstrap bootstrap(exchange, rank, size);
    if (rank == world.absent) {
      bootstrap.exchange("", 2 * world.limit);
      bootstrap.exchange(R"({"samples": {}})", 2 * world.limit);
      return;
    }
    std::size_t host = 0;
    std::size_t place = 0;
    for (std::size_t h = 0; h < world.hosts.size(); ++h) {
      const auto& ranks = world.hosts[h];
      const auto found = std::find(ranks.begin(), ranks.end(), rank);
      if (found == ranks.end()) continue;
      host = h;
      place = static_cast<std::size_t>(found - ranks.begin());
    }
    Board board = boards[host].make_board(static_cast<int>(place));
    const auto transport = data.make_transport(rank);
    const Tuning defaults = Tuning::defaults(static_cast<int>(world.hosts.front().size()), kSlot);
    const TuningTask task{.bootstrap = bootstrap,
                          .transport = *transport,
                          .board = board,
                          .hosts = world.hosts,
                          .defaults = defaults,
                          .key = key_of(world),
                          .plan = kShortPlan,
                          .threads = world.threads,
                          .cache_directory = world.cache,
                          .limit = world.limit};
    results[static_cast<std::size_t>(rank)] = tune(task);
  });
  return results;
}

bool all_equal(const std::vector<TuningResult>& results) {
  return std::all_of(results.begin(), results.end(), [&](const TuningResult& result) {
    return result.tuning == results.front().tuning && result.source == results.front().source;
  });
}

}  // namespace

TEST_CASE("all ranks have one tuning, which was measured") {
  const HostRanks hosts = GENERATE(HostRanks{{0, 1}}, HostRanks{{0, 1, 2}}, HostRanks{{0}, {1}},
                                   HostRanks{{0}, {1}, {2}, {3}, {4}}, HostRanks{{0, 1}, {2, 3}},
                                   HostRanks{{0, 2}, {1}});
  const auto results = run_tuning({.hosts = hosts});
  CHECK(all_equal(results));
  CHECK(results.front().source == "measured now");
  CHECK_FALSE(results.front().is_out_of_step);
  const Tuning& tuning = results.front().tuning;
  CHECK(tuning.inside_host.latency_s != InsideCosts{}.latency_s);
  CHECK(tuning.inside_host.copy_bytes_per_s != InsideCosts{}.copy_bytes_per_s);
  CHECK(tuning.between_hosts.reduce_bytes_per_s != LinkCosts{}.reduce_bytes_per_s);
  CHECK(tuning.kernels.swept_elements_per_s != KernelCosts{}.swept_elements_per_s);
  CHECK(tuning.kernels.filled_elements_per_s != KernelCosts{}.filled_elements_per_s);
  CHECK(tuning.kernels.taken_elements_per_s != KernelCosts{}.taken_elements_per_s);
  CHECK((tuning.between_hosts.latency_s != LinkCosts{}.latency_s) == (hosts.size() > 1));
  CHECK((tuning.between_hosts.bytes_per_s != LinkCosts{}.bytes_per_s) == (hosts.size() > 1));
}

TEST_CASE("what is measured is what its name says: latencies are no rates") {
  const HostRanks hosts = GENERATE(HostRanks{{0, 1}}, HostRanks{{0}, {1}});
  const Tuning tuning = run_tuning({.hosts = hosts}).front().tuning;
  // Wide enough for any machine under any load and a sanitizer, and far apart.
  const auto is_latency = [](double time_s) { return time_s > 2e-8 && time_s < 1.0; };
  const auto is_rate = [](double bytes_per_s) { return bytes_per_s > 2e6 && bytes_per_s < 1e13; };
  CHECK(is_latency(tuning.inside_host.latency_s));
  CHECK(is_rate(tuning.inside_host.copy_bytes_per_s));
  CHECK(is_latency(tuning.between_hosts.latency_s));
  CHECK(is_rate(tuning.between_hosts.bytes_per_s));
  CHECK(is_rate(tuning.between_hosts.reduce_bytes_per_s));
  CHECK(is_rate(tuning.kernels.swept_elements_per_s));
  CHECK(is_rate(tuning.kernels.filled_elements_per_s));
  CHECK(tuning.kernels.taken_elements_per_s > 2e5);
  CHECK(tuning.kernels.taken_elements_per_s <= tuning.kernels.swept_elements_per_s);
}

TEST_CASE("the passes are measured by as many threads as will make them") {
  std::atomic<int> loops = 0;
  const PassThreads three{3, [&](const std::function<void(std::size_t)>& body) {
                            ++loops;
                            for (std::size_t i = 0; i < 3; ++i) body(i);
                          }};
  const auto results = run_tuning({.hosts = {{0, 1}}, .threads = three});
  CHECK(results.front().source == "measured now");
  CHECK(loops > 0);
}

TEST_CASE("a rank that is gone ends the tuning of the others in time") {
  const auto begin = std::chrono::steady_clock::now();
  CHECK_THROWS_WITH(
      run_tuning({.hosts = {{0}, {1}, {2}}, .limit = Bootstrap::Limit(0.2), .dead = 1}),
      Catch::Contains("all 3 ranks") && Catch::Contains("SCALECOM_CONNECT_TIMEOUT"));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
}

TEST_CASE("the second time the figures come from the file, the same to the last digit") {
  const TemporaryFolder folder;
  const World world{.hosts = {{0}, {1}}, .cache = folder.path() + "/scalecom"};
  const auto first = run_tuning(world);
  const auto second = run_tuning(world);
  CHECK(first.front().source == "measured now");
  CHECK(second.front().source == "file " + tuning_file_path(world.cache, key_of(world)));
  CHECK(all_equal(second));
  CHECK(second.front().tuning == first.front().tuning);
}

TEST_CASE("a file that cannot be used is measured and written anew") {
  const TemporaryFolder folder;
  const World world{.hosts = {{0}, {1}}, .cache = folder.path()};
  std::ofstream(tuning_file_path(world.cache, key_of(world))) << "{\"version\": ";
  std::string said;
  {
    const CapturedStderr captured;
    CHECK(run_tuning(world).front().source == "measured now");
    said = captured.text();
  }
  CHECK_THAT(said, Catch::Contains(tuning_file_path(world.cache, key_of(world))) &&
                       Catch::Contains("written anew"));
  CHECK(std::count(said.begin(), said.end(), '\n') == 1);  // by rank 0 alone
  CHECK(run_tuning(world).front().source.rfind("file ", 0) == 0);
}

TEST_CASE("a rank that does not answer leaves all ranks with the defaults, in time") {
  const HostRanks hosts = GENERATE(HostRanks{{0, 1}}, HostRanks{{0}, {1}});
  const TemporaryFolder folder;
  const auto begin = std::chrono::steady_clock::now();
  auto captured = std::make_unique<CapturedStderr>();
  const auto results = run_tuning(
      {.hosts = hosts, .cache = folder.path(), .limit = Bootstrap::Limit(2.0), .absent = 1});
  const auto time = std::chrono::steady_clock::now() - begin;
  const std::string said = captured->text();
  captured.reset();
  CHECK_THAT(said, Catch::Contains("rank 0") && Catch::Contains("SCALECOM_TUNE=off"));
  CHECK(results.front().source == "defaults");
  CHECK(results.front().is_out_of_step);
  CHECK(results.front().tuning == Tuning::defaults(static_cast<int>(hosts.front().size()), kSlot));
  CHECK(time < std::chrono::seconds(20));
  CHECK(std::filesystem::is_empty(folder.path()));
}
