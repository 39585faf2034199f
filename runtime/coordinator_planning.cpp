// From an agreement to batches.
#include <algorithm>
#include <utility>

#include "runtime/coordinator.hpp"

namespace scalecom {

// Every batch of the agreements before has been started here, and on all ranks: so they know of the
// same measurements.
void Coordinator::plan(Agreement agreement) {
  bool needs_measurement = settle_modes(agreement);
  settle_rates(agreement);
  execution_.health().apply_guards(agreement);
  agreement_ = std::make_shared<const Agreement>(std::move(agreement));
  for (Batch& batch :
       plan_batches(*agreement_, parts_.size, fusion_tuning_.settings().threshold_bytes)) {
    batch.measures_device = needs_measurement && batch.device == DeviceKind::cuda;
    needs_measurement = needs_measurement && !batch.measures_device;
    batches_.push_back(std::move(batch));
  }
}

// Decides what was left open for CUDA tensors; true: it has to be measured first. Until then they
// are dense as in a warm-up, and keep their residuals.
bool Coordinator::settle_modes(Agreement& agreement) {
  bool needs_measurement = false;
  for (AgreedTensor& tensor : agreement.tensors) {
    TensorSignature& signature = tensor.signature;
    Compression& compression = signature.compression;
    if (compression.mode != CompressionMode::automatic) continue;
    const std::optional<CompressionMode> mode =
        parts_.choose_mode(count_of(signature.shape), signature.dtype, compression);
    compression.mode = mode.value_or(CompressionMode::sharded);
    if (!mode) {
      needs_measurement = true;
      compression.warmup_steps = std::max(compression.warmup_steps, tensor.step + 1);
    } else if (*mode == CompressionMode::none) {
      const double beta = std::exchange(compression, Compression{}).beta;
      // As if it had been submitted so, with what a restored residual owes.
      const auto own = pending_.find(tensor.name);
      if (own == pending_.end() || tensor.is_substitute) continue;
      own->second.signature.compression = compression;
      own->second.beta = beta;
    }
  }
  return needs_measurement;
}

}  // namespace scalecom
