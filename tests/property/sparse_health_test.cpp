// The health figures against their definitions in float64 (docs/algorithms.md).

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "collective/message_collectives.hpp"
#include "sparse/health.hpp"
#include "tests/property/scenario.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/kernels/samples.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;

namespace {

WaitContext patient() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

/// What one rank had and found in one step of one tensor.
struct Record {
  Values p;
  Values error;     ///< p - sent
  Values gradient;  ///< g
  Values residual;  ///< m after the step
  std::vector<std::uint16_t> offsets;
  TensorHealth health;
  bool is_sampled = false;
};

/// records[rank][tensor], of the last step of a run.
using Records = std::vector<std::vector<Record>>;

class Rank {
 public:
  Rank(const RunOptions& options, LoopbackWorld& world, int rank)
      : options_(options),
        rank_(rank),
        transport_(world.make_transport(rank)),
        collectives_(*transport_),
        sparse_(collectives_, rank, options.size) {
    for (const TensorSpec& spec : options.tensors) {
      residuals_.emplace_back(static_cast<std::size_t>(spec.count), 0.0f);
    }
  }

  std::vector<Record> run(int step) {
    std::vector<RawTensor> gradients;
    std::vector<RawTensor> results;
    std::vector<Record> records(options_.tensors.size());
    std::vector<SparseSlot> slots;
    for (std::size_t t = 0; t < records.size(); ++t) {
      const TensorSpec& spec = options_.tensors[t];
      const Values values = options_.gradient(rank_, step, t);
      gradients.emplace_back(spec.dtype, spec.count);
      results.emplace_back(spec.dtype, spec.count);
      for (std::size_t i = 0; i < values.size(); ++i) {
        set_floating(gradients[t], spec.dtype, i, values[i]);
        const double g = spec.prescale * floating_of(gradients[t], spec.dtype, i);
        records[t].gradient.push_back(g);
        records[t].p.push_back(static_cast<double>(residuals_[t][i]) + g);
      }
    }
    for (std::size_t t = 0; t < records.size(); ++t) {
      slots.push_back(
          slot_of(options_, options_.tensors[t], gradients[t], results[t], residuals_[t]));
    }
    HealthSample sample;
    const auto look = [&](const SparseAllReduce& sparse) {
      const std::vector<SparseChoice> choices =
          sparse.choices(std::vector<bool>(sparse.slots().size(), true));
      for (std::size_t t = 0; t < records.size(); ++t) {
        records[t].offsets = choices[t].offsets;
        records[t].is_sampled = !sparse.slots()[t].went_dense;
        if (records[t].is_sampled) sample.add(sparse.slots()[t], choices[t], step);
      }
      return sample.data();
    };
    sparse_.run(slots,
                {options_.mode, (options_.first_leader + step) % options_.size, options_.values},
                patient(), look);
    const std::vector<TensorHealth> health = sample.health(options_.size);
    std::size_t sampled = 0;
    for (std::size_t t = 0; t < records.size(); ++t) {
      if (records[t].is_sampled) records[t].health = health[sampled++];
      find_error(t, records[t]);
    }
    return records;
  }

 private:
  /// By the definition: sent is p rounded to the values' dtype where it was selected.
  void find_error(std::size_t t, Record& record) const {
    const TensorSpec& spec = options_.tensors[t];
    record.error = record.p;
    record.residual.assign(residuals_[t].begin(), residuals_[t].end());
    for (std::size_t j = 0; j < record.offsets.size(); ++j) {
      const std::size_t i = j * static_cast<std::size_t>(spec.rate) + record.offsets[j];
      RawTensor sent(options_.values, 1);
      set_floating(sent, options_.values, 0, record.p[i]);
      record.error[i] = record.p[i] - floating_of(sent, options_.values, 0);
    }
  }

  const RunOptions& options_;
  const int rank_;
  const std::unique_ptr<Transport> transport_;
  MessageCollectives collectives_;
  SparseAllReduce sparse_;
  std::vector<std::vector<float>> residuals_;
};

Records run_health(const RunOptions& options) {
  LoopbackWorld world(options.size);
  Records records(static_cast<std::size_t>(options.size));
  run_ranks(options.size, [&](int rank) {
    Rank self(options, world, rank);
    for (int step = 0; step < options.steps; ++step) {
      records[static_cast<std::size_t>(rank)] = self.run(step);
    }
  });
  return records;
}

/// Coordinates of the sampled chunks, chunk after chunk.
std::vector<std::vector<std::size_t>> sampled_of(const TensorSpec& spec, int step) {
  std::vector<std::vector<std::size_t>> chunks;
  for (const std::int64_t chunk : sampled_chunks(spec.count, spec.rate, step)) {
    auto& elements = chunks.emplace_back();
    for (std::int64_t i = chunk * spec.rate; i < std::min((chunk + 1) * spec.rate, spec.count);
         ++i) {
      elements.push_back(static_cast<std::size_t>(i));
    }
  }
  return chunks;
}

double norm(const Values& values, const std::vector<std::vector<std::size_t>>& chunks) {
  double sum = 0.0;
  for (const auto& chunk : chunks) {
    for (const std::size_t i : chunk) sum += values[i] * values[i];
  }
  return std::sqrt(sum);
}

std::string unequal(const char* name, double value, double expected, double slack) {
  if (std::abs(value - expected) <= slack) return "";
  return fmt::format("{} is {}, not {}", name, value, expected);
}

/// The figures that depend on the mean of p. Float32 sums may order two elements otherwise that are
/// closer than `slack`.
std::string unlike_selection(const Records& records, std::size_t t, const TensorSpec& spec,
                             const std::vector<std::vector<std::size_t>>& chunks) {
  constexpr double kSlack = 1e-5;
  const auto magnitude = [&](std::size_t i) {
    double sum = 0.0;
    for (const auto& rank : records) sum += rank[t].p[i];
    return std::abs(sum);
  };
  Values all;
  Values selected;
  std::int64_t surely_best = 0;
  std::int64_t maybe_best = 0;
  for (const auto& chunk : chunks) {
    const std::size_t place = chunk[0] / static_cast<std::size_t>(spec.rate);
    selected.push_back(magnitude(chunk[0] + records[0][t].offsets[place]));
    double largest = 0.0;
    double largest_other = 0.0;
    for (const std::size_t i : chunk) {
      all.push_back(magnitude(i));
      largest = std::max(largest, all.back());
      if (i != chunk[0] + records[0][t].offsets[place])
        largest_other = std::max(largest_other, all.back());
    }
    if (selected.back() > largest_other + kSlack) ++surely_best;
    if (selected.back() >= largest - kSlack) ++maybe_best;
  }
  std::sort(all.rbegin(), all.rend());
  const double least = selected.empty() ? 0.0 : all[selected.size() - 1];
  std::int64_t surely_missed = 0;
  std::int64_t maybe_missed = 0;
  for (const double value : selected) {
    if (value < least - kSlack) ++surely_missed;
    if (value < least + kSlack) ++maybe_missed;
  }
  const TensorHealth& health = records[0][t].health;
  if (health.missed < surely_missed || health.missed > maybe_missed) {
    return fmt::format("missed {}, not {} to {}", health.missed, surely_missed, maybe_missed);
  }
  if (health.best_chunks < surely_best || health.best_chunks > maybe_best) {
    return fmt::format("best in {}, not {} to {}", health.best_chunks, surely_best, maybe_best);
  }
  return "";
}

std::string difference(const RunOptions& options, const Records& records, std::size_t t) {
  const TensorSpec& spec = options.tensors[t];
  const auto chunks = sampled_of(spec, options.steps - 1);
  double errors = 0.0;
  double ratios = 0.0;
  for (const auto& rank : records) {
    const Record& record = rank[t];
    const double p = norm(record.p, chunks);
    const double g = norm(record.gradient, chunks);
    const double error = p == 0.0 ? 0.0 : norm(record.error, chunks) / p;
    const double ratio = g == 0.0 ? 0.0 : norm(record.residual, chunks) / g;
    errors += error / options.size;
    ratios += ratio / options.size;
    // p - sent is computed from a float32 residual and divided by beta.
    const double slack = 2e-6 / spec.beta;
    if (auto text = unequal("error", record.health.relative_error, error, slack); !text.empty())
      return text;
    if (auto text =
            unequal("ratio", record.health.residual_to_gradient, ratio, 1e-6 * (1.0 + ratio));
        !text.empty())
      return text;
    const TensorHealth& first = records[0][t].health;
    if (record.health.missed != first.missed || record.health.best_chunks != first.best_chunks ||
        record.health.mean_relative_error != first.mean_relative_error)
      return "the ranks have different figures";
    if (record.health.sampled_chunks != static_cast<std::int64_t>(chunks.size()))
      return fmt::format("{} chunks", record.health.sampled_chunks);
  }
  const TensorHealth& health = records[0][t].health;
  if (auto text = unequal("mean error", health.mean_relative_error, errors, 3e-6 / spec.beta);
      !text.empty())
    return text;
  if (auto text =
          unequal("mean ratio", health.mean_residual_to_gradient, ratios, 2e-6 * (1.0 + ratios));
      !text.empty())
    return text;
  return unlike_selection(records, t, spec, chunks);
}

/// Two ranks, 8 chunks of 2. Rank 0, which leads, has [2, 1] in each; rank 1 has [-2, 0] in the
/// first 4 and [2, 1] in the others.
RunOptions by_hand() {
  RunOptions options;
  options.size = 2;
  options.is_average = false;
  options.tensors = {{.count = 16, .rate = 2}};
  options.gradient = [](int rank, int, std::size_t) {
    Values values;
    for (int chunk = 0; chunk < 8; ++chunk) {
      const bool is_against = rank == 1 && chunk < 4;
      values.insert(values.end(), {is_against ? -2.0 : 2.0, is_against ? 0.0 : 1.0});
    }
    return values;
  };
  return options;
}

}  // namespace

TEST_CASE("every health figure equals its definition in float64") {
  CHECK(rc::check("health", [] {
    RunOptions options = draw_scenario();
    options.steps = *rc::gen::inRange(1, 6).as("steps");
    const Records records = run_health(options);
    for (std::size_t t = 0; t < options.tensors.size(); ++t) {
      const std::string text = difference(options, records, t);
      if (!text.empty()) RC_FAIL(fmt::format("tensor {}: {}", t, text));
    }
  }));
}

TEST_CASE("health figures of a step worked out by hand") {
  const Records records = run_health(by_hand());
  const TensorHealth& first = records[0][0].health;
  const TensorHealth& second = records[1][0].health;
  CHECK(first.sampled_chunks == 8);
  CHECK(first.sampled_elements == 16);
  // The sums are [0, 1] in 4 chunks and [4, 2] in 4: 4, 4, 4, 4, 2, 2, 2, 2 are the largest 8.
  CHECK(first.missed == 4);
  CHECK(first.best_chunks == 4);
  CHECK(first.relative_error == Approx(std::sqrt(0.2)));
  CHECK(first.residual_to_gradient == Approx(std::sqrt(0.2)));
  CHECK(second.relative_error == Approx(1.0 / 3.0));
  CHECK(second.mean_relative_error == Approx((std::sqrt(0.2) + 1.0 / 3.0) / 2.0));
}

TEST_CASE("equal magnitudes count as found, and nothing at all has no error") {
  RunOptions options = by_hand();
  const double value = GENERATE(0.0, 3.0);
  options.gradient = [value](int, int, std::size_t) { return Values(16, value); };
  const TensorHealth health = run_health(options)[0][0].health;
  CHECK(health.missed == 0);
  CHECK(health.best_chunks == 8);
  CHECK(health.relative_error == Approx(value == 0.0 ? 0.0 : std::sqrt(0.5)));
}

TEST_CASE("a residual without a gradient is an infinite ratio, on all ranks") {
  RunOptions options = by_hand();
  options.tensors[0].rate = 4;
  options.steps = 2;
  options.gradient = [](int rank, int step, std::size_t) {
    return Values(16, rank == 0 && step == 1 ? 0.0 : 1.0);
  };
  const Records records = run_health(options);
  CHECK(std::isinf(records[0][0].health.residual_to_gradient));
  CHECK(std::isfinite(records[1][0].health.residual_to_gradient));
  CHECK(std::isinf(records[1][0].health.mean_residual_to_gradient));
}

TEST_CASE("a tensor with NaN on one rank is known as such on all of them, and others are not") {
  RunOptions options = by_hand();
  options.tensors.push_back(options.tensors[0]);
  options.gradient = [](int rank, int, std::size_t t) {
    Values values(16, 1.0);
    if (rank == 1 && t == 0) values[3] = std::nan("");
    return values;
  };
  for (const auto& rank : run_health(options)) {
    CHECK_FALSE(rank[0].is_sampled);
    CHECK(rank[1].is_sampled);
    CHECK(rank[1].health.best_chunks == 8);
  }
}

TEST_CASE("the sampled chunks are spread, few, and others in another step") {
  CHECK(rc::check("sampled chunks", [] {
    const auto count = *rc::gen::oneOf(rc::gen::inRange<std::int64_t>(0, 2'000),
                                       rc::gen::inRange<std::int64_t>(0, 1LL << 40))
                            .as("count");
    const auto rate = *rc::gen::oneOf(rc::gen::inRange<std::int64_t>(1, 300),
                                      rc::gen::inRange<std::int64_t>(1, 65'537))
                           .as("rate");
    const auto step = *rc::gen::inRange<std::int64_t>(0, 1LL << 40).as("step");
    const std::vector<std::int64_t> chunks = sampled_chunks(count, rate, step);
    const std::int64_t all = (count + rate - 1) / rate;
    const auto sampled = static_cast<std::int64_t>(chunks.size());
    RC_ASSERT(sampled <= 32 && sampled * rate <= std::max<std::int64_t>(65'536, rate));
    RC_ASSERT(sampled >=
              std::min<std::int64_t>({all, 8, std::max<std::int64_t>(1, 65'536 / rate)}));
    for (std::int64_t i = 0; i < sampled; ++i) {
      const auto chunk = static_cast<double>(chunks[static_cast<std::size_t>(i)]);
      const double part = static_cast<double>(all) / static_cast<double>(sampled);
      RC_ASSERT(chunk > part * static_cast<double>(i) - 1.0);
      RC_ASSERT(chunk < part * static_cast<double>(i + 1));
    }
    RC_ASSERT(chunks == sampled_chunks(count, rate, step));
  }));
  CHECK(sampled_chunks(1'000'000, 100, 99) != sampled_chunks(1'000'000, 100, 199));
}

TEST_CASE("the byte-true rate is what the transport counts") {
  const int size = GENERATE(2, 3, 4);
  const auto mode = GENERATE(CompressionMode::cyclic, CompressionMode::sharded);
  const auto values = GENERATE(DataType::float32, DataType::bfloat16);
  const std::int64_t rate = GENERATE(100, 400);
  const std::int64_t count = 12 * 400 * 100;
  CAPTURE(size, static_cast<int>(mode), to_string(values), rate);
  LoopbackWorld world(size);
  std::vector<double> dense(static_cast<std::size_t>(size));
  std::vector<double> sparse(static_cast<std::size_t>(size));
  run_ranks(size, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport, "ring");
    std::vector<float> data(static_cast<std::size_t>(count), 1.0f);
    std::vector<float> residual(data.size());
    const auto bytes = std::as_writable_bytes(std::span(data));
    collectives.all_reduce(bytes, DataType::float32, ReduceOp::sum, patient());
    const std::int64_t before = transport->counters().bytes_sent;
    SparseSlot slot;
    slot.gradient = slot.result = bytes.data();
    slot.residual = residual.data();
    slot.count = count;
    slot.rate = rate;
    SparseAllReduce(collectives, rank, size).run({slot}, {mode, 0, values}, patient());
    dense[static_cast<std::size_t>(rank)] = static_cast<double>(before);
    sparse[static_cast<std::size_t>(rank)] =
        static_cast<double>(transport->counters().bytes_sent - before);
  });
  const double counted =
      std::reduce(dense.begin(), dense.end()) / std::reduce(sparse.begin(), sparse.end());
  CHECK(byte_true_rate(count, rate, values) == Approx(counted).epsilon(1e-3));
}
