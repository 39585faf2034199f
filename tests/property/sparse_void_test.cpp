// Steps that come to nothing, and batches of other sizes and values after one another.

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cmath>

#include "collective/message_collectives.hpp"
#include "sparse/sparse_all_reduce.hpp"
#include "tests/property/scenario.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/kernels/samples.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

WaitContext patient() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

/// Tensors of one batch on one rank, with their residuals.
struct Batch {
  std::vector<std::vector<float>> gradients;
  std::vector<std::vector<float>> residuals;
  std::vector<SparseSlot> slots;
};

Batch make_batch(const RunOptions& options, int rank) {
  Batch batch;
  for (std::size_t t = 0; t < options.tensors.size(); ++t) {
    const auto doubles = normal_values(11, rank, 0, t, options.tensors[t].count);
    batch.gradients.emplace_back(doubles.begin(), doubles.end());
    const auto residual = normal_values(12, rank, 0, t, options.tensors[t].count);
    batch.residuals.emplace_back(residual.begin(), residual.end());
  }
  for (std::size_t t = 0; t < options.tensors.size(); ++t) {
    SparseSlot& slot = batch.slots.emplace_back();
    slot.name = "tensor";
    slot.gradient = reinterpret_cast<const std::byte*>(batch.gradients[t].data());
    slot.result = reinterpret_cast<std::byte*>(batch.gradients[t].data());
    slot.residual = batch.residuals[t].data();
    slot.count = options.tensors[t].count;
    slot.rate = options.tensors[t].rate;
    slot.beta = options.tensors[t].beta;
  }
  return batch;
}

SparseOptions options_of(const RunOptions& options) {
  SparseOptions made;
  made.round_elements = options.round_elements;
  made.piece_elements = options.piece_elements;
  return made;
}

SparsePlan plan_of(const RunOptions& options) {
  return {options.mode, options.first_leader, options.values};
}

void move_on(SparseAllReduce& sparse, Collectives& collectives) {
  collectives.advance(patient());
  sparse.advance();
}

/// How often a rank has to move on for its results to be free to be written.
int moves_until_posted(const RunOptions& options, const SparseOptions& sparse_options) {
  LoopbackWorld world(2);
  std::array<int, 2> moves{};
  run_ranks(2, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    SparseAllReduce sparse(collectives, rank, 2, sparse_options);
    Batch batch = make_batch(options, rank);
    sparse.start(batch.slots, plan_of(options));
    for (; !sparse.is_posted(); ++moves[static_cast<std::size_t>(rank)]) {
      move_on(sparse, collectives);
    }
    while (!sparse.is_done()) move_on(sparse, collectives);
  });
  return moves[0];
}

/// What two ranks have after a step of `second`, where rank 0 has made the void step `first` with
/// one that has no data before, if there is a `first`, and heard of it after so many moves.
std::vector<std::vector<float>> results_after(const RunOptions* first, const RunOptions& second,
                                              std::string& problem, int moves = 0) {
  LoopbackWorld world(2);
  std::vector<std::vector<float>> results;
  run_ranks(2, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    SparseAllReduce sparse(collectives, rank, 2, options_of(second));
    if (first != nullptr) {
      Batch batch = make_batch(*first, rank);
      const auto before = batch.residuals;
      if (rank == 1) {
        sparse.start_nothing(batch.slots, plan_of(*first));
      } else {
        sparse.start(batch.slots, plan_of(*first));
        for (int i = 0; i < moves; ++i) move_on(sparse, collectives);
        sparse.discard();
      }
      while (!sparse.is_done()) move_on(sparse, collectives);
      for (std::size_t t = 0; t < before.size(); ++t) {
        for (std::size_t i = 0; i < before[t].size(); ++i) {
          const float after = batch.residuals[t][i];
          if (!(std::abs(after - before[t][i]) <= 2e-6f)) {
            problem = fmt::format("m[{}] was {} and is {}", i, before[t][i], after);
          }
        }
      }
    }
    Batch batch = make_batch(second, rank);
    sparse.run(batch.slots, plan_of(second), patient());
    if (rank == 0) results = batch.gradients;
  });
  return results;
}

}  // namespace

TEST_CASE("a void step, with a rank that has no data, leaves residuals and the next step alone") {
  CHECK(rc::check("void", [] {
    ScenarioLimits limits;
    limits.size_max = 2;
    RunOptions first = draw_scenario(limits);
    RunOptions second = draw_scenario(limits);
    first.first_leader = *rc::gen::inRange(0, 2).as("leader of the void step");
    second.first_leader = *rc::gen::inRange(0, 2).as("leader of the next step");
    std::string problem;
    const int moves =
        *rc::gen::inRange(0, moves_until_posted(first, options_of(second))).as("moves before");
    const auto results = results_after(&first, second, problem, moves);
    if (!problem.empty()) RC_FAIL(problem);
    RC_ASSERT(results == results_after(nullptr, second, problem));
  }));
}

TEST_CASE("a sum of values at the limit is finite, on any number of ranks") {
  const DataType values = GENERATE(DataType::float16, DataType::bfloat16);
  const int size = GENERATE(2, 33, 96);
  RunOptions options;
  options.size = size;
  options.mode = CompressionMode::sharded;
  options.values = values;
  options.is_average = false;
  options.tensors = {{.count = 128, .rate = 1}};
  options.gradient = [](int, int, std::size_t) { return Values(128, 3e38); };
  const Run run = run_sparse(options);
  CAPTURE(to_string(values), size);
  for (const double value : run[0][0].tensors[0].result) {
    CHECK((std::isfinite(value) && value > (values == DataType::float16 ? 6e4 : 2e38)));
  }
}
