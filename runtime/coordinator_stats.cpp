// The counters that the coordinator publishes.
#include "runtime/coordinator.hpp"

namespace scalecom {

SessionStats SharedStats::snapshot() const {
  SessionStats stats;
  stats.data_bytes_sent = data_bytes_sent;
  stats.data_messages_sent = data_messages_sent;
  stats.control_bytes_sent = control_bytes_sent;
  stats.control_messages_sent = control_messages_sent;
  stats.tensors_completed = tensors_completed;
  stats.batches_executed = batches_executed;
  stats.tensors_negotiated_from_cache = tensors_negotiated_from_cache;
  stats.compressed_tensors = compressed_tensors;
  stats.nonfinite_tensors = nonfinite_tensors;
  stats.residual_resets = residual_resets;
  stats.steady_agreements = steady_agreements;
  stats.steady_leaves = steady_leaves;
  stats.guard_halvings = guard_halvings;
  stats.device_batches = device_batches;
  stats.device_enqueue_us = device_enqueue_us;
  return stats;
}

void Coordinator::publish_stats() {
  TransportCounters data = parts_.collectives->counters();
  data += execution_.devices().counters();
  const TransportCounters control = parts_.channel->counters();
  SharedStats& stats = *parts_.stats;
  stats.data_bytes_sent = data.bytes_sent;
  stats.data_messages_sent = data.messages_sent;
  stats.control_bytes_sent = control.bytes_sent;
  stats.control_messages_sent = control.messages_sent;
  stats.batches_executed = execution_.batches_executed();
  stats.tensors_negotiated_from_cache = negotiation_.cached_requests();
  stats.compressed_tensors = execution_.compressed_tensors();
  stats.nonfinite_tensors = execution_.nonfinite_tensors();
  stats.steady_agreements = negotiation_.steady_counters().agreements;
  stats.steady_leaves = negotiation_.steady_counters().leaves;
  stats.residual_resets = execution_.residuals().reset_count();
  stats.guard_halvings = execution_.health().guard_halvings();
  const DeviceExecution::Enqueued& enqueued = execution_.devices().enqueued();
  stats.device_batches = enqueued.batches;
  stats.device_enqueue_us =
      std::chrono::duration_cast<std::chrono::microseconds>(enqueued.time).count();
}

}  // namespace scalecom
