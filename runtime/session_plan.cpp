// Which tensors a session compresses, and why.
#include <algorithm>
#include <functional>
#include <limits>

#include "collective/selector.hpp"
#include "runtime/compression_plan.hpp"
#include "runtime/session_impl.hpp"

namespace scalecom {
namespace {

// Sizes and options of tensors whose mode is remembered.
constexpr std::size_t kModesMax = 1 << 16;

CompressionMode mode_by_setting(const std::string& setting) {
  if (setting == "auto") return CompressionMode::automatic;
  if (setting == "hierarchical") return CompressionMode::hierarchical;
  return setting == "cyclic" ? CompressionMode::cyclic : CompressionMode::sharded;
}

bool has_several_hosts(const Topology& topology) {
  return std::ranges::adjacent_find(topology.hosts, std::not_equal_to()) != topology.hosts.end();
}

}  // namespace

CompressionExplanation SessionImpl::explain_compression(std::int64_t count, DataType dtype,
                                                        Compression compression,
                                                        DeviceKind device) const {
  if (compression.mode == CompressionMode::by_setting) {
    compression.mode = mode_by_setting(parts_.config.mode);
  }
  return plan_compression(count, dtype, compression, plan_costs(device));
}

// A device that nobody has measured is explained by the host's figures.
PlanCosts SessionImpl::plan_costs(DeviceKind device) const {
  PlanCosts costs{
      .ranks = parts_.topology.size,
      .fusion_threshold_bytes = parts_.config.fusion_threshold_bytes,
      .overlaps = has_several_hosts(parts_.topology),
      .kernels = parts_.tuning.kernels,
      .all_reduce_time_s = [this](std::int64_t bytes) { return all_reduce_time_s(bytes); }};
  if (device == DeviceKind::host || costs.ranks == 1) return costs;
  const std::shared_ptr<const DeviceCosts> measured = device_.costs();
  if (measured == nullptr || !measured->is_measured()) {
    costs.why_dense = measured != nullptr ? describe(*measured)
                                          : "CUDA devices are measured with the first CUDA tensors "
                                            "of mode auto; the times are the host's";
    return costs;
  }
  costs.overlaps = false;
  costs.kernels = measured->kernels;
  costs.round_elements = std::numeric_limits<std::int64_t>::max();
  costs.all_reduce_time_s = [measured](std::int64_t bytes) {
    return measured->all_reduce_time_s(bytes);
  };
  return costs;
}

// What is carried out; by the model alone where that has no figures, as MPI's own.
double SessionImpl::all_reduce_time_s(std::int64_t bytes) const {
  for (const auto& alternative : explain_all_reduce(bytes).alternatives) {
    if (alternative.is_chosen) return 1e-6 * alternative.time_us;
  }
  const LinkCosts& link = parts_.tuning.between_hosts;
  const int ranks = parts_.topology.size;
  return scalecom::all_reduce_time_s(select_all_reduce(bytes, ranks, "auto", link), bytes, ranks,
                                     link);
}

CompressionMode SessionImpl::mode_of(const TensorView& tensor, const Compression& compression) {
  CompressionMode mode = compression.mode;
  if (mode == CompressionMode::by_setting) mode = mode_by_setting(parts_.config.mode);
  const bool is_left_open = tensor.device.kind == DeviceKind::cuda && parts_.topology.size > 1;
  if (mode != CompressionMode::automatic || is_left_open) return mode;
  return automatic_mode(tensor.count(), tensor.dtype, compression, tensor.device.kind);
}

std::optional<CompressionMode> SessionImpl::mode_on_device(std::int64_t count, DataType dtype,
                                                           const Compression& compression) {
  if (device_.costs() == nullptr) return std::nullopt;
  return automatic_mode(count, dtype, compression, DeviceKind::cuda);
}

CompressionMode SessionImpl::automatic_mode(std::int64_t count, DataType dtype,
                                            const Compression& compression, DeviceKind device) {
  const std::lock_guard lock(modes_mutex_);
  if (modes_.size() >= kModesMax) modes_.clear();
  const auto [place, is_new] =
      modes_.try_emplace({count, dtype, compression.rate, compression.values, device});
  if (is_new) place->second = explain_compression(count, dtype, compression, device).mode;
  return place->second;
}

}  // namespace scalecom
