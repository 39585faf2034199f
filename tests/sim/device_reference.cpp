#include "tests/sim/device_reference.hpp"

#include <algorithm>
#include <utility>

#include "compress/offset_codec.hpp"
#include "runtime/tensor_scales.hpp"
#include "sparse/parts.hpp"
#include "sparse/value_limit.hpp"
#include "tests/support/step_on_host.hpp"

namespace scalecom::sim {
namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

// In the order of ranks, as the collectives of a run do.
Bytes sum_of(std::span<const Bytes> parts, DataType dtype) {
  Bytes sum = parts.front();
  for (const Bytes& part : parts.subspan(1)) {
    kernels::reduce(sum.data(), sum.data(), part.data(), std::ssize(sum) / size_of(dtype), dtype,
                    ReduceOp::sum);
  }
  return sum;
}

void scale(Bytes& values, DataType dtype, kernels::Scale by) {
  kernels::scale_copy(values.data(), values.data(), std::ssize(values) / size_of(dtype), dtype, by);
}

/// What a rank sweeps: its gradient, or the average of its host's.
struct Swept {
  Bytes values;
  DataType dtype = DataType::float32;
};

// A rank alone on its host has nothing to average.
std::vector<Swept> swept(const TensorSignature& signature,
                         const std::vector<std::size_t>& host_of_rank,
                         const std::vector<Bytes>& inputs) {
  std::vector<Swept> all;
  for (std::size_t rank = 0; rank < inputs.size(); ++rank) {
    std::vector<Bytes> wide;
    for (std::size_t other = 0; other < inputs.size(); ++other) {
      if (host_of_rank[other] != host_of_rank[rank]) continue;
      const std::int64_t count = std::ssize(inputs[other]) / size_of(signature.dtype);
      Bytes& values = wide.emplace_back(index(count) * sizeof(float));
      kernels::widen(reinterpret_cast<float*>(values.data()), inputs[other].data(), signature.dtype,
                     count);
    }
    const bool is_alone = wide.size() == 1;
    if (is_alone || signature.compression.mode != CompressionMode::hierarchical) {
      all.push_back({inputs[rank], signature.dtype});
      continue;
    }
    Bytes average = sum_of(wide, DataType::float32);
    scale(average, DataType::float32, {1.0, static_cast<double>(wide.size())});
    all.push_back({std::move(average), DataType::float32});
  }
  return all;
}

/// The chunks of a compressed tensor with one leader, on all ranks.
class Shard {
 public:
  Shard(const TensorSignature& signature, int shard, int shards, std::size_t size)
      : signature_(signature) {
    const std::int64_t all = count_of(signature.shape);
    const std::int64_t rate = signature.compression.rate;
    const std::int64_t from = selected_count(part_start(all, shard, shards), rate);
    const std::int64_t to = selected_count(part_start(all, shard + 1, shards), rate);
    first_ = from * rate;
    count_ = std::max<std::int64_t>(std::min(to * rate, all) - first_, 0);
    chunks_ = to - from;
    offsets_.resize(index(chunks_));
    kept_.assign(size, std::vector<float>(index(chunks_)));
    values_.assign(size, Bytes(index(chunks_ * size_of(signature.compression.values))));
    reduced_.resize(index(chunks_));
  }

  std::int64_t sweep(const std::vector<Swept>& inputs, Residuals& residuals, std::size_t leader) {
    std::int64_t nonfinite = 0;
    if (count_ == 0) return nonfinite;
    StepTensor led = row(inputs, residuals, leader);
    led.nonfinite = &nonfinite;
    test::select_on_host(led);
    for (std::size_t rank = 0; rank < inputs.size(); ++rank) {
      if (rank == leader) continue;
      StepTensor other = row(inputs, residuals, rank);
      other.nonfinite = &nonfinite;
      test::gather_on_host(other);
    }
    const DataType dtype = signature_.compression.values;
    const Bytes sum = sum_of(values_, dtype);
    kernels::widen(reduced_.data(), sum.data(), dtype, chunks_);
    const auto bytes = reinterpret_cast<std::byte*>(reduced_.data());
    kernels::scale_copy(bytes, bytes, chunks_, DataType::float32,
                        output_scale(signature_, static_cast<int>(inputs.size())));
    return nonfinite;
  }

  void fill(const std::vector<Swept>& inputs, Residuals& residuals, float mark, Bytes& result) {
    for (std::size_t rank = 0; rank < inputs.size() && count_ > 0; ++rank) {
      StepTensor one = row(inputs, residuals, rank);
      one.mark = &mark;
      test::take_back_on_host(one);
      one.residual = nullptr;  // It is.
      one.gradient.dtype = signature_.dtype;
      one.result = result.data() + first_ * size_of(signature_.dtype);
      one.reduced = reduced_.data();
      test::fill_on_host(one);
    }
  }

 private:
  StepTensor row(const std::vector<Swept>& inputs, Residuals& residuals, std::size_t rank) {
    StepTensor one;
    one.residual = residuals[rank].data() + first_;
    const auto& [values, dtype] = inputs[rank];
    one.gradient = {values.data() + first_ * size_of(dtype), dtype, count_,
                    static_cast<float>(input_scale(signature_).multiply)};
    one.beta = static_cast<float>(signature_.compression.beta);
    one.chunk = signature_.compression.rate;
    one.offsets = offsets_.data();
    one.selected = {values_[rank].data(), signature_.compression.values,
                    value_limit(signature_.compression.values, static_cast<int>(inputs.size())),
                    kept_[rank].data()};
    return one;
  }

  const TensorSignature& signature_;
  std::int64_t first_ = 0;
  std::int64_t count_ = 0;
  std::int64_t chunks_ = 0;
  std::vector<std::uint16_t> offsets_;
  std::vector<std::vector<float>> kept_;
  std::vector<Bytes> values_;
  std::vector<float> reduced_;
};

}  // namespace

Bytes dense_result(const TensorSignature& signature, const std::vector<Bytes>& inputs) {
  std::vector<Bytes> scaled = inputs;
  for (Bytes& input : scaled) scale(input, signature.dtype, input_scale(signature));
  Bytes result = sum_of(scaled, signature.dtype);
  scale(result, signature.dtype, output_scale(signature, static_cast<int>(inputs.size())));
  return result;
}

Bytes compressed_result(const TensorSignature& signature, std::size_t step,
                        const std::vector<std::size_t>& host_of_rank,
                        const std::vector<Bytes>& given, Residuals& residuals) {
  const std::vector<Swept> inputs = swept(signature, host_of_rank, given);
  const std::size_t size = inputs.size();
  const std::size_t turn = step % size;
  const bool is_cyclic = signature.compression.mode == CompressionMode::cyclic;
  const std::size_t shards = is_cyclic ? 1 : size;
  std::vector<Shard> all;
  std::int64_t nonfinite = 0;
  for (std::size_t shard = 0; shard < shards; ++shard) {
    all.emplace_back(signature, static_cast<int>(shard), static_cast<int>(shards), size);
    const std::size_t leader = is_cyclic ? turn : (shard + size - turn) % size;
    nonfinite += all.back().sweep(inputs, residuals, leader);
  }
  Bytes result(given.front().size());
  for (Shard& shard : all) shard.fill(inputs, residuals, nonfinite > 0 ? 1.0f : 0.0f, result);
  return result;
}

std::size_t row_bytes_of(const TensorSignature& signature) {
  const std::int64_t columns = count_of({signature.shape.begin() + 1, signature.shape.end()});
  return index(columns * size_of(signature.dtype));
}

// The first ranks get the rows that are too many.
std::vector<Bytes> scattered_results(const TensorSignature& signature,
                                     const std::vector<Bytes>& inputs) {
  const Bytes all = dense_result(signature, inputs);
  const std::size_t rows = index(signature.shape.front());
  const std::size_t size = inputs.size();
  std::vector<Bytes> results;
  auto begin = all.begin();
  for (std::size_t rank = 0; rank < size; ++rank) {
    const std::size_t own = rows / size + (rank < rows % size ? 1 : 0);
    const auto end = begin + static_cast<std::ptrdiff_t>(own * row_bytes_of(signature));
    results.emplace_back(begin, end);
    begin = end;
  }
  return results;
}

std::vector<Bytes> exchanged_results(const TensorSignature& signature,
                                     std::span<const std::int64_t> rows,
                                     const std::vector<Bytes>& inputs) {
  const std::size_t size = inputs.size();
  std::vector<Bytes> results(size);
  for (std::size_t from = 0; from < size; ++from) {
    auto begin = inputs[from].begin();
    for (std::size_t to = 0; to < size; ++to) {
      const std::size_t bytes = index(rows[from * size + to]) * row_bytes_of(signature);
      const auto end = begin + static_cast<std::ptrdiff_t>(bytes);
      results[to].insert(results[to].end(), begin, end);
      begin = end;
    }
  }
  return results;
}

}  // namespace scalecom::sim
