#include "tests/property/sparse_run.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <random>

#include "collective/message_collectives.hpp"
#include "tests/support/ranks.hpp"
#include "transport/loopback/loopback_transport.hpp"

namespace scalecom::test {
namespace {

WaitContext patient() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

/// Passes everything on and remembers what travelled.
class RecordingCollectives final : public Collectives {
 public:
  explicit RecordingCollectives(Collectives& inner) : inner_(inner) {}

  std::string_view name() const noexcept override { return "recording"; }
  int rank() const noexcept override { return inner_.rank(); }
  void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                  const WaitContext& context) override {
    reduced.emplace_back(data.begin(), data.end());
    inner_.all_reduce(data, dtype, op, context);
  }
  void broadcast(std::span<std::byte> data, int root, const WaitContext& context) override {
    inner_.broadcast(data, root, context);
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  std::span<const std::int64_t> bytes_per_rank,
                  const WaitContext& context) override {
    inner_.all_gather(mine, all, bytes_per_rank, context);
    offsets.insert(offsets.end(), all.begin(), all.end());
  }
  void reduce_scatter(std::span<std::byte> data, std::span<const std::int64_t> bytes_per_rank,
                      DataType dtype, ReduceOp op, const WaitContext& context) override {
    inner_.reduce_scatter(data, bytes_per_rank, dtype, op, context);
  }
  void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                  std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                  const WaitContext& context) override {
    inner_.all_to_all(send, send_bytes, receive, receive_bytes, context);
  }

  TransportCounters counters() const noexcept override { return inner_.counters(); }

  void clear() {
    reduced.clear();
    offsets.clear();
  }

  std::vector<std::vector<std::byte>> reduced;  ///< this rank's input of each all-reduce
  std::vector<std::byte> offsets;               ///< what was gathered

 private:
  Collectives& inner_;
};

Values values_of(const RawTensor& tensor, DataType dtype, std::int64_t count) {
  Values values;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    values.push_back(floating_of(tensor, dtype, i));
  }
  return values;
}

std::size_t chunks_of(const TensorSpec& spec) {
  return static_cast<std::size_t>((spec.count + spec.rate - 1) / spec.rate);
}

/// Of the equal parts that each shard of a tensor is cut in, the one that a chunk begins in.
std::int64_t part_of(const RunOptions& options, std::size_t t, std::size_t chunk) {
  const TensorSpec& spec = options.tensors[t];
  const std::int64_t shards = options.mode == CompressionMode::sharded ? options.size : 1;
  const std::int64_t parts = std::max<std::int64_t>(1, spec.count / options.round_elements);
  const std::int64_t first = static_cast<std::int64_t>(chunk) * spec.rate;
  std::int64_t shard = 0;
  while (first >= spec.count * (shard + 1) / shards) ++shard;
  const std::int64_t start = spec.count * shard / shards;
  const std::int64_t length = spec.count * (shard + 1) / shards - start;
  std::int64_t part = 0;
  while (first - start >= length * (part + 1) / parts) ++part;
  return part;
}

/// The parts of tensors that travel together: (tensor, part), as many as make round_elements.
std::vector<std::vector<std::pair<std::size_t, std::int64_t>>> rounds_of(
    const RunOptions& options) {
  std::vector<std::vector<std::pair<std::size_t, std::int64_t>>> rounds(1);
  std::int64_t elements = 0;
  for (std::size_t t = 0; t < options.tensors.size(); ++t) {
    const std::int64_t count = options.tensors[t].count;
    const std::int64_t parts = std::max<std::int64_t>(1, count / options.round_elements);
    for (std::int64_t part = 0; part < parts; ++part) {
      if (elements >= options.round_elements) {
        rounds.emplace_back();
        elements = 0;
      }
      rounds.back().emplace_back(t, part);
      elements += count / parts;
    }
  }
  return rounds;
}

std::vector<std::byte> joined(const std::vector<std::vector<std::byte>>& parts) {
  std::vector<std::byte> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

/// Reads offsets and values off the wire, by the format's definition: round by round the leaders'
/// offsets in rank order, each in the order of tensors and chunks, and the values in that order;
/// before the last round's values one flag a tensor.
void read_wire(RankStep& record, const RecordingCollectives& wire, const RunOptions& options,
               int step) {
  const auto rounds = rounds_of(options);
  auto reduced = wire.reduced;
  const std::vector<std::byte> flags = reduced.at(rounds.size() - 1);
  reduced.erase(reduced.begin() + static_cast<std::ptrdiff_t>(rounds.size()) - 1);
  record.offset_bytes = wire.offsets.size();
  record.reduced_bytes = {joined(reduced).size(), flags.size()};
  reduced.resize(rounds.size());  // Behind are tensors that went dense.
  const std::vector<std::byte> values = joined(reduced);
  for (std::size_t t = 0; t < options.tensors.size(); ++t) {
    record.tensors[t].selected.resize(chunks_of(options.tensors[t]));
    record.tensors[t].sent.resize(chunks_of(options.tensors[t]));
  }
  std::size_t place = 0;
  std::size_t value = 0;
  const auto read_chunk = [&](std::size_t t, std::size_t j) {
    const auto rate = static_cast<std::size_t>(options.tensors[t].rate);
    auto offset = static_cast<std::size_t>(wire.offsets.at(place++));
    if (rate > 256) offset += static_cast<std::size_t>(wire.offsets.at(place++)) << 8;
    record.tensors[t].selected[j] = j * rate + offset;
    const auto bytes = static_cast<std::size_t>(size_of(options.values));
    RawTensor sent(options.values, 1);
    std::copy_n(values.data() + bytes * value++, bytes, sent.data());
    record.tensors[t].sent[j] = static_cast<float>(floating_of(sent, options.values, 0));
  };
  for (const auto& round : rounds) {
    for (int leader = 0; leader < options.size; ++leader) {
      for (const auto& [t, part] : round) {
        for (std::size_t j = 0; j < chunks_of(options.tensors[t]); ++j) {
          const bool is_meant = leader_of(options, step, t, j) == leader;
          if (is_meant && part_of(options, t, j) == part) read_chunk(t, j);
        }
      }
    }
  }
}

/// Pieces are independent: from the last to the first.
void in_disorder(std::size_t count, const std::function<void(std::size_t)>& body) {
  while (count > 0) body(--count);
}

/// One rank of a run: its residuals and its end of the transport.
class Rank {
 public:
  Rank(const RunOptions& options, LoopbackWorld& world, int rank)
      : options_(options),
        rank_(rank),
        transport_(world.make_transport(rank)),
        messages_(*transport_),
        wire_(messages_),
        sparse_(wire_, rank, options.size,
                {options.round_elements, options.piece_elements, 2, in_disorder}) {
    for (const TensorSpec& spec : options.tensors) {
      residuals_.emplace_back(static_cast<std::size_t>(spec.count), 0.0f);
    }
  }

  RankStep run(int step) {
    RankStep record;
    std::vector<RawTensor> gradients;
    std::vector<RawTensor> results;
    for (std::size_t t = 0; t < options_.tensors.size(); ++t) {
      gradients.push_back(raw_of(options_.gradient(rank_, step, t), options_.tensors[t].dtype));
      results.emplace_back(options_.tensors[t].dtype, options_.tensors[t].count, 3);
    }
    std::vector<SparseSlot> slots;
    for (std::size_t t = 0; t < options_.tensors.size(); ++t) {
      const TensorSpec& spec = options_.tensors[t];
      TensorStep& tensor = record.tensors.emplace_back();
      tensor.gradient = values_of(gradients[t], spec.dtype, spec.count);
      slots.push_back(slot_of(options_, spec, gradients[t], results[t], residuals_[t]));
    }
    wire_.clear();
    slots = sparse_.run(
        std::move(slots),
        {options_.mode, (options_.first_leader + step) % options_.size, options_.values},
        patient());
    read_wire(record, wire_, options_, step);
    for (std::size_t t = 0; t < slots.size(); ++t) {
      const TensorSpec& spec = options_.tensors[t];
      const RawTensor& result = options_.is_in_place ? gradients[t] : results[t];
      TensorStep& tensor = record.tensors[t];
      tensor.result = values_of(result, spec.dtype, spec.count);
      tensor.result_bytes.assign(result.data(), result.data() + result.bytes());
      tensor.residual = residuals_[t];
      tensor.nonfinite_count = slots[t].nonfinite_count;
      tensor.went_dense = slots[t].went_dense;
      if (!result.is_guard_intact()) throw std::runtime_error("wrote behind the result");
    }
    return record;
  }

 private:
  const RunOptions& options_;
  const int rank_;
  std::unique_ptr<Transport> transport_;
  MessageCollectives messages_;
  RecordingCollectives wire_;
  SparseAllReduce sparse_;
  std::vector<std::vector<float>> residuals_;
};

/// The residuals and the result in float64.
class Reference {
 public:
  explicit Reference(const RunOptions& options) : options_(options) {
    for (const TensorSpec& spec : options.tensors) {
      residuals_.emplace_back(static_cast<std::size_t>(options.size),
                              Values(static_cast<std::size_t>(spec.count), 0.0));
    }
  }

  std::string difference(const Run& run, int step, std::size_t t) {
    std::vector<const TensorStep*> ranks;
    for (const auto& steps : run) {
      ranks.push_back(&steps[static_cast<std::size_t>(step)].tensors[t]);
    }
    const TensorSpec& spec = options_.tensors[t];
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {  // m becomes p
      for (std::size_t i = 0; i < residuals_[t][rank].size(); ++i) {
        residuals_[t][rank][i] += spec.prescale * ranks[rank]->gradient[i];
      }
    }
    std::string wrong = wrong_selection(step, t, ranks[0]->selected);
    for (std::size_t rank = 0; rank < ranks.size() && wrong.empty(); ++rank) {
      wrong = wrong_values(residuals_[t][rank], *ranks[rank]);
    }
    if (!wrong.empty()) return wrong;
    const Values result = finish_step(t, ranks);
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      wrong = unequal_to(*ranks[rank], result, residuals_[t][rank], slack(t, ranks), spec.dtype);
      if (!wrong.empty()) return fmt::format("rank {}: {}", rank, wrong);
    }
    return "";
  }

 private:
  std::string wrong_selection(int step, std::size_t t, const std::vector<std::size_t>& selected) {
    const auto rate = static_cast<std::size_t>(options_.tensors[t].rate);
    const auto count = static_cast<std::size_t>(options_.tensors[t].count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t chunk = i / rate;
      const auto leader = static_cast<std::size_t>(leader_of(options_, step, t, chunk));
      const Values& p = residuals_[t][leader];
      const std::size_t choice = selected.at(chunk);
      if (choice / rate != chunk || choice >= count) {
        return fmt::format("{} was selected in chunk {} of {} elements", choice, chunk, count);
      }
      if (std::abs(p[i]) > std::abs(p[choice]) + 1e-5) {
        return fmt::format("{} was selected, but |p| is larger at {}", choice, i);
      }
    }
    return "";
  }

  std::string wrong_values(const Values& p, const TensorStep& rank) {
    for (std::size_t j = 0; j < rank.sent.size(); ++j) {
      const double expected = p[rank.selected[j]];
      const double error = std::abs(static_cast<double>(rank.sent[j]) - expected);
      if (!(error <= 2e-5 + rounding_of(options_.values) * std::abs(expected))) {
        return fmt::format("{} was sent of {}, not {}", rank.sent[j], rank.selected[j], expected);
      }
    }
    return "";
  }

  /// What additions on the wire may round away of the result, by coordinate.
  Values slack(std::size_t t, const std::vector<const TensorStep*>& ranks) {
    Values slack(static_cast<std::size_t>(options_.tensors[t].count), 0.0);
    const double rounding = rounding_of(options_.values) * (options_.size - 1);
    for (const TensorStep* rank : ranks) {
      for (std::size_t j = 0; j < rank->sent.size(); ++j) {
        slack[rank->selected[j]] += rounding * std::abs(static_cast<double>(rank->sent[j])) /
                                    (options_.is_average ? options_.size : 1);
      }
    }
    for (double& value : slack) value += 2e-5;
    return slack;
  }

  /// Takes the residuals from p to those after the step; returns the result. What is sent is what
  /// the run sent: float64 may round p to the other side.
  Values finish_step(std::size_t t, const std::vector<const TensorStep*>& ranks) {
    const TensorSpec& spec = options_.tensors[t];
    Values result(static_cast<std::size_t>(spec.count), 0.0);
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      Values& residual = residuals_[t][rank];
      Values sent(residual.size(), 0.0);
      for (std::size_t j = 0; j < ranks[rank]->sent.size(); ++j) {
        const std::size_t i = ranks[rank]->selected[j];
        sent[i] = options_.values == DataType::float32 ? residual[i]
                                                       : static_cast<double>(ranks[rank]->sent[j]);
      }
      for (std::size_t i = 0; i < residual.size(); ++i) {
        const double p = residual[i];
        const double m = p - spec.prescale * ranks[rank]->gradient[i];
        residual[i] = (1.0 - spec.beta) * m + spec.beta * (p - sent[i]);
        result[i] += sent[i] / (options_.is_average ? static_cast<double>(options_.size) : 1.0);
      }
    }
    return result;
  }

  static std::string unequal_to(const TensorStep& step, const Values& result,
                                const Values& residual, const Values& slack, DataType dtype) {
    for (std::size_t i = 0; i < result.size(); ++i) {
      const double error = std::abs(step.result[i] - result[i]);
      if (!(error <= slack[i] + rounding_of(dtype) * std::abs(result[i]))) {
        return fmt::format("result[{}] is {}, not {}", i, step.result[i], result[i]);
      }
      const auto m = static_cast<double>(step.residual[i]);
      if (!(std::abs(m - residual[i]) <= 2e-5)) {
        return fmt::format("m[{}] is {}, not {}", i, m, residual[i]);
      }
    }
    return "";
  }

  const RunOptions& options_;
  std::vector<std::vector<Values>> residuals_;
};

}  // namespace

RawTensor raw_of(const Values& values, DataType dtype) {
  RawTensor tensor(dtype, static_cast<std::int64_t>(values.size()));
  for (std::size_t i = 0; i < values.size(); ++i) set_floating(tensor, dtype, i, values[i]);
  return tensor;
}

SparseSlot slot_of(const RunOptions& options, const TensorSpec& spec, RawTensor& gradient,
                   RawTensor& result, std::vector<float>& residual) {
  SparseSlot slot;
  slot.name = "tensor";
  slot.gradient = gradient.data();
  slot.result = options.is_in_place ? gradient.data() : result.data();
  slot.residual = residual.data();
  slot.count = spec.count;
  slot.dtype = spec.dtype;
  slot.rate = spec.rate;
  slot.beta = spec.beta;
  slot.prescale = spec.prescale;
  slot.result_scale = {1.0, options.is_average ? static_cast<double>(options.size) : 1.0};
  return slot;
}

int leader_of(const RunOptions& options, int step, std::size_t tensor, std::size_t chunk) {
  const int shift = (options.first_leader + step) % options.size;
  if (options.mode == CompressionMode::cyclic) return shift;
  const TensorSpec& spec = options.tensors[tensor];
  const std::int64_t first = static_cast<std::int64_t>(chunk) * spec.rate;
  int shard = 0;
  while (first >= spec.count * (shard + 1) / options.size) ++shard;
  return (shard - shift + options.size) % options.size;
}

Run run_sparse(const RunOptions& options) {
  LoopbackWorld world(options.size);
  Run run(static_cast<std::size_t>(options.size));
  run_ranks(options.size, [&](int rank) {
    Rank self(options, world, rank);
    for (int step = 0; step < options.steps; ++step) {
      run[static_cast<std::size_t>(rank)].push_back(self.run(step));
    }
  });
  return run;
}

std::vector<Values> run_dense(const RunOptions& options, int step) {
  LoopbackWorld world(options.size);
  std::vector<Values> results(options.tensors.size());
  run_ranks(options.size, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives collectives(*transport);
    for (std::size_t t = 0; t < options.tensors.size(); ++t) {
      const TensorSpec& spec = options.tensors[t];
      RawTensor data = raw_of(options.gradient(rank, step, t), spec.dtype);
      kernels::scale_copy(data.data(), data.data(), spec.count, spec.dtype, {spec.prescale, 1.0});
      collectives.all_reduce({data.data(), data.bytes()}, spec.dtype, ReduceOp::sum, patient());
      kernels::scale_copy(data.data(), data.data(), spec.count, spec.dtype,
                          {1.0, options.is_average ? static_cast<double>(options.size) : 1.0});
      if (rank == 0) results[t] = values_of(data, spec.dtype, spec.count);
    }
  });
  return results;
}

std::string difference_to_reference(const RunOptions& options, const Run& run) {
  Reference reference(options);
  for (int step = 0; step < options.steps; ++step) {
    for (std::size_t t = 0; t < options.tensors.size(); ++t) {
      const std::string difference = reference.difference(run, step, t);
      if (!difference.empty()) return fmt::format("step {}, tensor {}: {}", step, t, difference);
    }
  }
  return "";
}

double rounding_of(DataType dtype) {
  switch (dtype) {
    case DataType::float16: return 0x1p-11;
    case DataType::bfloat16: return 0x1p-8;
    default: return 0x1p-23;
  }
}

Values normal_values(unsigned seed, int rank, int step, std::size_t tensor, std::int64_t count) {
  std::seed_seq sequence{seed, static_cast<unsigned>(rank), static_cast<unsigned>(step),
                         static_cast<unsigned>(tensor)};
  std::mt19937 generator(sequence);
  std::normal_distribution<double> normal;
  Values values(static_cast<std::size_t>(count));
  for (double& value : values) value = normal(generator);
  return values;
}

}  // namespace scalecom::test
