#include "runtime/tuning/samples.hpp"

#include <algorithm>
#include <cmath>

namespace scalecom {
namespace {

const double* find(const Samples& samples, const std::string& name) {
  const auto found = samples.find(name);
  const bool is_usable =
      found != samples.end() && std::isfinite(found->second) && found->second > 0.0;
  return is_usable ? &found->second : nullptr;
}

void set_time(double& time_s, const Samples& samples, const std::string& name) {
  if (const double* value = find(samples, name)) time_s = *value;
}

void set_rate(double& per_s, const Samples& samples, const std::string& name) {
  if (const double* value = find(samples, name)) per_s = 1.0 / *value;
}

void set_taken_rate(double& per_s, const Samples& samples) {
  const double* swept_s = find(samples, samples::swept(kPassChunk));
  const double* filled_s = find(samples, samples::filled(kPassChunk));
  const double* short_swept_s = find(samples, samples::swept(kShortChunk));
  const double* short_filled_s = find(samples, samples::filled(kShortChunk));
  if (!swept_s || !filled_s || !short_swept_s || !short_filled_s) return;
  per_s = taken_elements_per_s(*swept_s, *swept_s + *filled_s, *short_swept_s + *short_filled_s);
}

// Shorter than the default where blocks are clearly faster before it, longer while flat clearly is
// behind it; sizes are powers of two.
std::size_t choose_flat_bytes_max(std::size_t by_default, const Samples& samples,
                                  std::size_t slot_bytes) {
  std::size_t longest = by_default;
  for (std::size_t bytes = 64; bytes <= slot_bytes; bytes *= 2) {
    const double* flat = find(samples, samples::flat(bytes));
    const double* blocks = find(samples, samples::blocks(bytes));
    if (flat == nullptr || blocks == nullptr) continue;
    if (bytes <= by_default) {
      if (*blocks < kClearlyBetter * *flat) return bytes / 2;
    } else {
      if (*flat >= kClearlyBetter * *blocks) return longest;
      longest = bytes;
    }
  }
  return longest;
}

std::size_t choose_block_bytes(std::size_t by_default, const Samples& samples,
                               std::size_t slot_bytes) {
  const double* fastest = find(samples, samples::block(by_default));
  if (fastest == nullptr) return by_default;
  double to_beat = kClearlyBetter * *fastest;
  std::size_t chosen = by_default;
  for (std::size_t bytes = 64; bytes <= slot_bytes; bytes *= 2) {
    const double* time_s = find(samples, samples::block(bytes));
    if (time_s == nullptr || *time_s >= to_beat) continue;
    to_beat = *time_s;
    chosen = bytes;
  }
  return chosen;
}

}  // namespace

std::string samples::swept(std::int64_t chunk) { return "swept_s/" + std::to_string(chunk); }
std::string samples::filled(std::int64_t chunk) { return "filled_s/" + std::to_string(chunk); }
std::string samples::flat(std::size_t bytes) { return "flat_s/" + std::to_string(bytes); }
std::string samples::blocks(std::size_t bytes) { return "blocks_s/" + std::to_string(bytes); }
std::string samples::block(std::size_t bytes) { return "block_s/" + std::to_string(bytes); }

void note(Samples& samples, const std::string& name, double time_s) {
  const auto [place, is_new] = samples.try_emplace(name, time_s);
  if (!is_new) place->second = std::min(place->second, time_s);
}

Samples slowest(std::span<const Samples> by_rank) {
  Samples all;
  for (const Samples& one : by_rank) {
    for (const auto& [name, time_s] : one) {
      const auto [place, is_new] = all.try_emplace(name, time_s);
      if (!is_new) place->second = std::max(place->second, time_s);
    }
  }
  return all;
}

Tuning choose_tuning(const Tuning& defaults, const Samples& slowest, int hosts,
                     std::size_t slot_bytes) {
  Tuning tuning = defaults;
  set_time(tuning.between_hosts.latency_s, slowest, samples::kMessage);
  set_rate(tuning.between_hosts.bytes_per_s, slowest, samples::kMessageByte);
  set_rate(tuning.between_hosts.reduce_bytes_per_s, slowest, samples::kReducedByte);
  set_time(tuning.inside_host.latency_s, slowest, samples::kInside);
  set_rate(tuning.inside_host.copy_bytes_per_s, slowest, samples::kInsideByte);
  set_rate(tuning.kernels.swept_elements_per_s, slowest, samples::swept(kPassChunk));
  set_rate(tuning.kernels.filled_elements_per_s, slowest, samples::filled(kPassChunk));
  set_taken_rate(tuning.kernels.taken_elements_per_s, slowest);
  tuning.shm.flat_bytes_max =
      choose_flat_bytes_max(defaults.shm.flat_bytes_max, slowest, slot_bytes);
  tuning.shm.block_bytes = choose_block_bytes(defaults.shm.block_bytes, slowest, slot_bytes);
  if (hosts > 1) {
    tuning.between_block_bytes =
        choose_between_block_bytes(hosts, slot_bytes, tuning.between_hosts, tuning.inside_host);
  }
  return tuning;
}

}  // namespace scalecom
