// Hierarchical steps are sharded ones of the hosts' average gradients, to the bit.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <span>

#include "sparse/sparse_all_reduce.hpp"
#include "tests/property/scenario.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/host_world.hpp"
#include "tests/unit/kernels/samples.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

constexpr std::size_t kSlotBytes = 1024;

std::size_t index(int value) { return static_cast<std::size_t>(value); }

/// What a rank has after each step: results and residuals of all tensors, as bytes.
using Outcome = std::vector<std::vector<std::byte>>;

void append(std::vector<std::byte>& bytes, const void* data, std::size_t size) {
  const auto* first = static_cast<const std::byte*>(data);
  bytes.insert(bytes.end(), first, first + size);
}

/// As the runtime averages: in float32, in the order of the host's ranks.
RawTensor average_of(const RunOptions& options, const std::vector<int>& host, int step,
                     std::size_t t) {
  const TensorSpec& spec = options.tensors[t];
  std::vector<float> sum(static_cast<std::size_t>(spec.count));
  for (std::size_t place = 0; place < host.size(); ++place) {
    const RawTensor input = raw_of(options.gradient(host[place], step, t), spec.dtype);
    for (std::size_t i = 0; i < sum.size(); ++i) {
      const auto value = static_cast<float>(floating_of(input, spec.dtype, i));
      sum[i] = place == 0 ? value : sum[i] + value;
    }
  }
  RawTensor average(DataType::float32, spec.count);
  std::ranges::copy(std::as_bytes(std::span(sum)), average.data());
  kernels::scale_copy(average.data(), average.data(), spec.count, DataType::float32,
                      {1.0, static_cast<double>(host.size())});
  return average;
}

/// `mode` is hierarchical: from each rank's own gradient; or sharded: from its host's average.
std::vector<Outcome> run(const RunOptions& options, const Job& job, CompressionMode mode) {
  std::vector<Outcome> outcomes(index(job.size));
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    SparseOptions cuts;
    cuts.round_elements = options.round_elements;
    cuts.piece_elements = options.piece_elements;
    SparseAllReduce sparse(collectives, rank, job.size, cuts);
    std::vector<std::vector<float>> residuals;
    for (const TensorSpec& spec : options.tensors) {
      residuals.emplace_back(static_cast<std::size_t>(spec.count), 0.0f);
    }
    const auto is_here = [rank](const std::vector<int>& host) {
      return std::find(host.begin(), host.end(), rank) != host.end();
    };
    const auto host = std::find_if(job.hosts.begin(), job.hosts.end(), is_here);
    for (int step = 0; step < options.steps; ++step) {
      std::vector<RawTensor> gradients;
      std::vector<SparseSlot> slots;
      for (std::size_t t = 0; t < options.tensors.size(); ++t) {
        const TensorSpec& spec = options.tensors[t];
        const bool is_average = mode == CompressionMode::sharded;
        gradients.push_back(is_average ? average_of(options, *host, step, t)
                                       : raw_of(options.gradient(rank, step, t), spec.dtype));
      }
      for (std::size_t t = 0; t < options.tensors.size(); ++t) {
        const TensorSpec& spec = options.tensors[t];
        SparseSlot& slot = slots.emplace_back();
        slot.name = "tensor";
        slot.gradient = slot.result = gradients[t].data();
        slot.residual = residuals[t].data();
        slot.count = spec.count;
        slot.dtype = mode == CompressionMode::sharded ? DataType::float32 : spec.dtype;
        slot.rate = spec.rate;
        slot.beta = spec.beta;
        slot.prescale = spec.prescale;
      }
      sparse.run(slots, {mode, step % job.size, options.values},
                 {Deadline::after(std::chrono::seconds(60)), nullptr});
      std::vector<std::byte>& bytes = outcomes[index(rank)].emplace_back();
      for (std::size_t t = 0; t < options.tensors.size(); ++t) {
        const TensorSpec& spec = options.tensors[t];
        const auto count = static_cast<std::size_t>(spec.count);
        if (mode == CompressionMode::sharded && spec.dtype != DataType::float32) {
          RawTensor rounded(spec.dtype, spec.count);
          for (std::size_t i = 0; i < count; ++i) {
            set_floating(rounded, spec.dtype, i, floating_of(gradients[t], DataType::float32, i));
          }
          append(bytes, rounded.data(), rounded.bytes());
        } else {
          append(bytes, gradients[t].data(), gradients[t].bytes());
        }
        append(bytes, residuals[t].data(), count * sizeof(float));
      }
    }
  });
  return outcomes;
}

Job draw_job() {
  const std::vector<Job> jobs{{{{0, 1}, {2, 3}}, 4},    {{{0, 1, 2}, {3}}, 4},
                              {{{0, 2}, {1, 3, 4}}, 5}, {{{0, 1, 2}}, 3},
                              {{{0}, {1}}, 2},          {{{0, 3}, {1, 4}, {2, 5}}, 6}};
  return *rc::gen::elementOf(jobs).as("hosts");
}

}  // namespace

TEST_CASE("hierarchical steps are sharded ones of each host's average") {
  CHECK(rc::check("hierarchical", [] {
    const RunOptions options = draw_scenario();
    const Job job = draw_job();
    const auto outcomes = run(options, job, CompressionMode::hierarchical);
    RC_ASSERT(outcomes == run(options, job, CompressionMode::sharded));
    for (const std::vector<int>& host : job.hosts) {
      for (const int rank : host) RC_ASSERT(outcomes[index(rank)] == outcomes[index(host[0])]);
    }
  }));
}

TEST_CASE("NaN on one rank sends a tensor dense on all hosts, and the residuals stay") {
  const Job job{{{0, 1}, {2, 3}}, 4};
  bool went_dense = false;
  std::vector<float> sums;
  std::vector<float> residuals;
  run_job(job, kSlotBytes, [&](int rank, HierarchicalCollectives& collectives) {
    SparseAllReduce sparse(collectives, rank, job.size);
    std::vector<float> gradient(100, static_cast<float>(rank + 1));
    if (rank == 2) gradient[7] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> residual(100, 0.5f);
    SparseSlot slot;
    slot.name = "tensor";
    slot.gradient = slot.result = reinterpret_cast<std::byte*>(gradient.data());
    slot.residual = residual.data();
    slot.count = 100;
    slot.rate = 10;
    const auto slots = sparse.run({slot}, {CompressionMode::hierarchical, 1, DataType::float32},
                                  {Deadline::after(std::chrono::seconds(60)), nullptr});
    if (rank != 3) return;
    went_dense = slots[0].went_dense;
    sums = gradient;
    residuals = residual;
  });
  REQUIRE(sums.size() == 100);
  CHECK(went_dense);
  CHECK(std::isnan(sums[7]));
  sums[7] = 10.0f;
  CHECK(sums == std::vector<float>(100, 10.0f));  // 1 + 2 + 3 + 4
  CHECK(residuals == std::vector<float>(100, 0.5f));
}
