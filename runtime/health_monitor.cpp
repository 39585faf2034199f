#include "runtime/health_monitor.hpp"

#include <fmt/format.h>

#include "base/log.hpp"

namespace scalecom {
namespace {

// A guard judges no fewer: the standard deviation of d/k is then 9 % at most.
constexpr std::int64_t kJudgedMin = 32;

/// Steps from a sample to the first one that it may change.
std::int64_t lead_of(const AgreedTensor& sampled) {
  return sampled.signature.device == DeviceKind::host ? HealthMonitor::kLeadSteps
                                                      : HealthMonitor::kDeviceLeadSteps;
}

/// Chunks of 1 in place of less than 2: then every element travels and no offset matters.
std::int64_t halved(std::int64_t rate, std::int64_t halvings) {
  const std::int64_t length = rate >> halvings;
  return length < 2 ? 1 : length;
}

double part(std::int64_t some, std::int64_t all) {
  return all == 0 ? 0.0 : static_cast<double>(some) / static_cast<double>(all);
}

CompressionHealth health_of(const AgreedTensor& tensor, const TensorHealth& health,
                            std::int64_t halvings) {
  const Compression& compression = tensor.signature.compression;
  const std::int64_t count = count_of(tensor.signature.shape);
  return {.name = tensor.name,
          .step = tensor.step,
          .elements = count,
          .rate = compression.rate,
          .halvings = halvings,
          .sampled_chunks = health.sampled_chunks,
          .relative_error = health.relative_error,
          .mean_relative_error = health.mean_relative_error,
          .residual_to_gradient = health.residual_to_gradient,
          .mean_residual_to_gradient = health.mean_residual_to_gradient,
          .hamming_distance = part(health.missed, health.sampled_chunks),
          .chunk_overlap = part(health.best_chunks, health.sampled_chunks),
          .byte_true_rate = byte_true_rate(count, compression.rate, compression.values)};
}

}  // namespace

HealthMonitor::HealthMonitor(const Config& config, int rank)
    : rank_(rank), period_(config.health_steps) {
  if (rank == 0 && !config.health_file.empty()) file_.emplace(config);
}

bool HealthMonitor::must_know(const AgreedTensor& tensor, const AgreedTensor& sampled) noexcept {
  return tensor.step >= sampled.step + lead_of(sampled) ||
         tensor.signature.device != sampled.signature.device;
}

void HealthMonitor::apply_guards(Agreement& agreement) const {
  if (guard_halvings_ == 0) return;
  for (AgreedTensor& tensor : agreement.tensors) {
    Compression& compression = tensor.signature.compression;
    if (!is_guarded(compression)) continue;
    const auto found = entries_.find(tensor.name);
    if (found == entries_.end()) continue;
    const Entry& entry = found->second;
    const bool is_ahead = tensor.step < entry.first_step;
    compression.rate = halved(compression.rate, entry.halvings - (is_ahead ? 1 : 0));
  }
}

std::vector<CompressionHealth> HealthMonitor::record(std::span<const AgreedTensor* const> tensors,
                                                     std::span<const TensorHealth> health) {
  std::vector<CompressionHealth> lines;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Entry& entry = entries_[tensors[i]->name];
    judge(entry, *tensors[i], health[i]);
    lines.push_back(health_of(*tensors[i], health[i], entry.halvings));
    // A device's figures may come after those of a later step on the host.
    if (lines.back().step >= entry.last.step) entry.last = lines.back();
  }
  if (file_) file_->append(lines);
  return lines;
}

void HealthMonitor::judge(Entry& entry, const AgreedTensor& tensor, const TensorHealth& health) {
  const Compression& compression = tensor.signature.compression;
  const bool is_ahead = tensor.step < entry.first_step;
  if (!is_guarded(compression) || compression.rate == 1 || is_ahead) return;
  entry.seen += health.sampled_chunks;
  entry.missed += health.missed;
  if (entry.seen < kJudgedMin) return;
  const double distance = part(entry.missed, entry.seen);
  entry.seen = entry.missed = 0;
  if (distance <= compression.guard) return;
  ++entry.halvings;
  ++guard_halvings_;
  entry.first_step = tensor.step + lead_of(tensor);
  if (rank_ != 0) return;
  log_warning(fmt::format(
      "tensor {}: of what was selected {:.3g} is not in the true top-k in step {}, more than its "
      "guard of {:g}; from step {} on one element of {} travels in place of one of {}",
      tensor.name, distance, tensor.step, compression.guard, entry.first_step,
      halved(compression.rate, 1), compression.rate));
}

std::vector<CompressionHealth> HealthMonitor::health() const {
  std::vector<CompressionHealth> all;
  for (const auto& [name, entry] : entries_) all.push_back(entry.last);
  return all;
}

}  // namespace scalecom
