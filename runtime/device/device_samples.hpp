#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "runtime/device/device_context.hpp"
#include "runtime/fusion.hpp"
#include "runtime/health_monitor.hpp"
#include "sparse/device_health.hpp"

namespace scalecom {

/// The health samples of batches on an accelerator, from the batch's begin until the host has read
/// them: a batch is over for the host before its figures are there. Confined to the coordinator's
/// thread, which has entered the accelerator for begin() and clear().
class DeviceSamples {
 public:
  /// `health` outlives it.
  explicit DeviceSamples(HealthMonitor& health) : health_(health) {}

  /// What a ScaleCom batch that begins is to look at; null: nothing of it is sampled in this step.
  DeviceHealthSample* begin(PinnedPool& pinned, const Batch& batch, const Agreement& agreement);
  /// All of the batch that `health` was begun for is enqueued; it is done behind `done`.
  void finish(const DeviceHealthSample& health, std::shared_ptr<const DeviceEvent> done);

  /// Gives the figures that are there to the health monitor, of `size` ranks, in the order of the
  /// batches; returns what it tells of them.
  std::vector<CompressionHealth> read(Accelerator& accelerator, int size);
  /// Whether a guard of the agreement's tensors waits for figures that are not there yet.
  bool are_awaited_by(const Agreement& agreement) const;
  /// None is on its way.
  bool is_empty() const noexcept { return under_way_.empty(); }

  /// All are given up, and what they hold of the accelerator. The lanes they are of outlive it.
  void clear();
  /// The tensor starts anew: samples of it are thrown away.
  void forget(const std::string& name);

 private:
  struct Sample {
    std::unique_ptr<DeviceHealthSample> health;
    std::vector<AgreedTensor> tensors;        ///< as the sample's; without a name: forgotten
    std::shared_ptr<const DeviceEvent> done;  ///< null: it is being enqueued
  };

  HealthMonitor& health_;
  std::deque<Sample> under_way_;
  std::vector<std::unique_ptr<DeviceHealthSample>> idle_;
};

}  // namespace scalecom
