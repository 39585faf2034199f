#include "runtime/device/device_samples.hpp"

#include <algorithm>
#include <utility>

namespace scalecom {

DeviceHealthSample* DeviceSamples::begin(PinnedPool& pinned, const Batch& batch,
                                         const Agreement& agreement) {
  std::vector<DeviceHealthSample::Wanted> wanted;
  std::vector<AgreedTensor> tensors;
  for (std::size_t slot = 0; slot < batch.tensors.size(); ++slot) {
    const AgreedTensor& tensor = agreement.tensors[batch.tensors[slot]];
    if (!health_.is_sampled(tensor.step)) continue;
    wanted.push_back({slot, tensor.step});
    tensors.push_back(tensor);
  }
  if (wanted.empty()) return nullptr;
  if (idle_.empty()) idle_.push_back(std::make_unique<DeviceHealthSample>(pinned));
  Sample& sample = under_way_.emplace_back();
  sample.health = std::move(idle_.back());
  idle_.pop_back();
  sample.health->want(std::move(wanted));
  sample.tensors = std::move(tensors);
  return sample.health.get();
}

void DeviceSamples::finish(const DeviceHealthSample& health,
                           std::shared_ptr<const DeviceEvent> done) {
  const auto is_it = [&](const Sample& sample) { return sample.health.get() == &health; };
  std::ranges::find_if(under_way_, is_it)->done = std::move(done);
}

std::vector<CompressionHealth> DeviceSamples::read(Accelerator& accelerator, int size) {
  std::vector<CompressionHealth> lines;
  while (!under_way_.empty() && under_way_.front().done != nullptr &&
         accelerator.is_done(under_way_.front().done->event.get())) {
    Sample sample = std::move(under_way_.front());
    under_way_.pop_front();
    std::vector<const AgreedTensor*> tensors;
    std::vector<TensorHealth> figures;
    const auto all = sample.health->health(size);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!all[i] || sample.tensors[i].name.empty()) continue;
      tensors.push_back(&sample.tensors[i]);
      figures.push_back(*all[i]);
    }
    idle_.push_back(std::move(sample.health));
    if (tensors.empty()) continue;
    for (CompressionHealth& line : health_.record(tensors, figures)) {
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

// Not of a batch that is being enqueued: no tensor of it has been submitted again.
bool DeviceSamples::are_awaited_by(const Agreement& agreement) const {
  if (under_way_.empty()) return false;
  for (const AgreedTensor& tensor : agreement.tensors) {
    if (!HealthMonitor::is_guarded(tensor.signature.compression)) continue;
    for (const Sample& sample : under_way_) {
      const auto found = std::ranges::find(sample.tensors, tensor.name, &AgreedTensor::name);
      if (found == sample.tensors.end()) continue;
      if (HealthMonitor::must_know(tensor, *found)) return true;
    }
  }
  return false;
}

void DeviceSamples::clear() {
  under_way_.clear();
  idle_.clear();
}

void DeviceSamples::forget(const std::string& name) {
  for (Sample& sample : under_way_) {
    for (AgreedTensor& tensor : sample.tensors) {
      if (tensor.name == name) tensor.name.clear();
    }
  }
}

}  // namespace scalecom
