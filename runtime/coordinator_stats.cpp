// The counters that the coordinator publishes.
#include "runtime/coordinator.hpp"

namespace scalecom {

SessionStats Coordinator::stats() const {
  const std::lock_guard lock(stats_mutex_);
  return stats_;
}

void Coordinator::publish_stats() {
  TransportCounters data = parts_.collectives->counters();
  data += execution_.devices().counters();
  const TransportCounters control = parts_.channel->counters();
  const SteadyCounters& steady = negotiation_.steady_counters();
  const DeviceExecution::Enqueued& enqueued = execution_.devices().enqueued();
  const auto enqueue_time = std::chrono::duration_cast<std::chrono::microseconds>(enqueued.time);
  const std::lock_guard lock(stats_mutex_);
  stats_ = {.data_bytes_sent = data.bytes_sent,
            .data_messages_sent = data.messages_sent,
            .control_bytes_sent = control.bytes_sent,
            .control_messages_sent = control.messages_sent,
            .tensors_completed = tensors_completed_,
            .batches_executed = execution_.batches_executed(),
            .tensors_negotiated_from_cache = negotiation_.cached_requests(),
            .compressed_tensors = execution_.compressed_tensors(),
            .nonfinite_tensors = execution_.nonfinite_tensors(),
            .residual_resets = execution_.residuals().reset_count(),
            .steady_agreements = steady.agreements,
            .steady_leaves = steady.leaves,
            .guard_halvings = execution_.health().guard_halvings(),
            .device_batches = enqueued.batches,
            .device_enqueue_us = enqueue_time.count()};
}

}  // namespace scalecom
