#include "sparse/health.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "compress/offset_codec.hpp"
#include "kernels/sampled_element.hpp"
#include "sparse/parts.hpp"

namespace scalecom {
namespace {

constexpr std::int64_t kChunksMin = 8;
constexpr std::int64_t kChunksMax = 32;
constexpr std::int64_t kElementsMax = 65'536;

/// Well mixed bits of `value` (the finalizer of SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
std::uint64_t mix(std::uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

double ratio(double numerator, double denominator) {
  if (numerator == 0.0) return 0.0;
  return std::sqrt(numerator / denominator);
}

/// Sums of squares over the sampled elements.
struct Squares {
  double error = 0.0;
  double compensated = 0.0;
  double residual = 0.0;
  double gradient = 0.0;

  void add(const kernels::SampledElement& element, double m, double g) {
    error += element.error * element.error;
    compensated += element.compensated * element.compensated;
    residual += m * m;
    gradient += g * g;
  }
};

/// Elements of one chunk that were not selected, and their p.
void add_unsent(Squares& squares, float* p, const float* residual, const float* gradient,
                std::size_t count, double beta) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto element = kernels::unsent_element(residual[i], gradient[i], beta);
    squares.add(element, residual[i], gradient[i]);
    p[i] = static_cast<float>(element.compensated);
  }
}

// A sum may overflow, and to NaN: that is large.
float magnitude(float value) {
  return std::isfinite(value) ? std::abs(value) : std::numeric_limits<float>::infinity();
}

/// Of `selected`, how many are not among as many largest of `all`.
std::int64_t count_missed(std::span<const float> selected, std::span<const float> all) {
  std::vector<float> largest(selected.size());
  std::partial_sort_copy(all.begin(), all.end(), largest.begin(), largest.end(), std::greater<>());
  const float least = largest.back();
  const auto is_above = [least](float value) { return value > least; };
  const auto above = std::count_if(largest.begin(), largest.end(), is_above);
  const auto found = std::count_if(selected.begin(), selected.end(), is_above);
  const auto equal = std::count(selected.begin(), selected.end(), least);
  const auto k = static_cast<std::ptrdiff_t>(selected.size());
  return k - found - std::min(equal, k - above);
}

}  // namespace

std::vector<std::int64_t> sampled_chunks(std::int64_t count, std::int64_t rate, std::int64_t step) {
  const std::int64_t chunks = selected_count(count, rate);
  const std::int64_t wanted = std::clamp(chunks / 8, kChunksMin, kChunksMax);
  const std::int64_t parts =
      std::min({chunks, wanted, std::max<std::int64_t>(1, kElementsMax / rate)});
  std::vector<std::int64_t> sampled;
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t first = part_start(chunks, part, parts);
    const std::int64_t end = part_start(chunks, part + 1, parts);
    const std::uint64_t random =
        mix(mix(static_cast<std::uint64_t>(step)) + static_cast<std::uint64_t>(part));
    sampled.push_back(first +
                      static_cast<std::int64_t>(random % static_cast<std::uint64_t>(end - first)));
  }
  return sampled;
}

double byte_true_rate(std::int64_t count, std::int64_t rate, DataType values) {
  const auto k = static_cast<double>(selected_count(count, rate));
  const double sent = 2.0 * (static_cast<double>(size_of(values)) * k + 1.0) +
                      static_cast<double>(offset_bytes(rate)) * k;
  return 2.0 * 4.0 * static_cast<double>(count) / sent;
}

TensorHealth health_from_sums(const LookedAt& tensor, std::span<const float> sums, int size) {
  TensorHealth health = tensor.health;
  const auto elements = static_cast<std::size_t>(health.sampled_elements);
  std::vector<float> magnitudes(elements);
  std::transform(sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(elements),
                 magnitudes.begin(), magnitude);
  std::vector<float> selected;
  for (std::size_t first = 0; first < elements; first += tensor.chunk) {
    const auto chunk =
        std::span(magnitudes).subspan(first, std::min(tensor.chunk, elements - first));
    selected.push_back(chunk[tensor.offsets[selected.size()]]);
    if (selected.back() == *std::max_element(chunk.begin(), chunk.end())) ++health.best_chunks;
  }
  health.missed = selected.empty() ? 0 : count_missed(selected, magnitudes);
  health.mean_relative_error = static_cast<double>(sums[elements]) / size;
  health.mean_residual_to_gradient = static_cast<double>(sums[elements + 1]) / size;
  return health;
}

void HealthSample::add(const SparseSlot& slot, const SparseChoice& choice, std::int64_t step) {
  const double beta = static_cast<float>(slot.beta);
  const auto prescale = static_cast<float>(slot.prescale);
  LookedAt tensor;
  const std::size_t begin = values_.size();
  tensor.chunk = static_cast<std::size_t>(slot.rate);
  Squares squares;
  for (const std::int64_t chunk : sampled_chunks(slot.count, slot.rate, step)) {
    const std::int64_t first = chunk * slot.rate;
    const std::int64_t length = std::min(slot.rate, slot.count - first);
    const auto count = static_cast<std::size_t>(length);
    gradient_.resize(count);
    kernels::widen(gradient_.data(), slot.gradient + first * size_of(slot.dtype), slot.dtype,
                   length);
    if (prescale != 1.0f) {
      for (float& value : gradient_) value *= prescale;
    }
    values_.resize(values_.size() + count);
    float* const p = values_.data() + values_.size() - count;
    const float* const residual = slot.residual + first;
    const std::size_t selected = choice.offsets[static_cast<std::size_t>(chunk)];
    add_unsent(squares, p, residual, gradient_.data(), selected, beta);
    const float kept = choice.kept[static_cast<std::size_t>(chunk)];
    const auto element = kernels::sent_element(residual[selected], kept, gradient_[selected], beta);
    squares.add(element, residual[selected], gradient_[selected]);
    p[selected] = static_cast<float>(element.compensated);
    const std::size_t next = selected + 1;
    add_unsent(squares, p + next, residual + next, gradient_.data() + next, count - next, beta);
    tensor.offsets.push_back(static_cast<std::uint16_t>(selected));
  }
  TensorHealth& health = tensor.health;
  health.sampled_chunks = static_cast<std::int64_t>(tensor.offsets.size());
  health.sampled_elements = static_cast<std::int64_t>(values_.size() - begin);
  health.relative_error = ratio(squares.error, squares.compensated);
  health.residual_to_gradient = ratio(squares.residual, squares.gradient);
  values_.push_back(static_cast<float>(health.relative_error));
  values_.push_back(static_cast<float>(health.residual_to_gradient));
  tensors_.push_back(std::move(tensor));
}

std::vector<TensorHealth> HealthSample::health(int size) const {
  std::vector<TensorHealth> all;
  std::size_t begin = 0;
  for (const LookedAt& tensor : tensors_) {
    const auto values = static_cast<std::size_t>(tensor.health.sampled_elements) + 2;
    all.push_back(health_from_sums(tensor, std::span(values_).subspan(begin, values), size));
    begin += values;
  }
  return all;
}

}  // namespace scalecom
