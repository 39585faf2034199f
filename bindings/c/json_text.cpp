#include "bindings/c/json_text.hpp"

#include <nlohmann/json.hpp>

#include "base/json_line.hpp"

namespace scalecom {

std::string to_json(const std::vector<ResidualInfo>& residuals) {
  auto list = nlohmann::json::array();
  for (const ResidualInfo& residual : residuals) {
    list.push_back({{"name", residual.name},
                    {"shape", residual.shape},
                    {"step", residual.step},
                    {"beta", residual.beta}});
  }
  return to_json_line(list);
}

std::string to_json(const std::vector<CompressionHealth>& tensors) {
  auto list = nlohmann::json::array();
  for (const CompressionHealth& health : tensors) {
    list.push_back({{"name", health.name},
                    {"step", health.step},
                    {"elements", health.elements},
                    {"rate", health.rate},
                    {"halvings", health.halvings},
                    {"sampled_chunks", health.sampled_chunks},
                    {"relative_error", health.relative_error},
                    {"mean_relative_error", health.mean_relative_error},
                    {"residual_to_gradient", health.residual_to_gradient},
                    {"mean_residual_to_gradient", health.mean_residual_to_gradient},
                    {"hamming_distance", health.hamming_distance},
                    {"chunk_overlap", health.chunk_overlap},
                    {"byte_true_rate", health.byte_true_rate}});
  }
  return to_json_line(list);
}

std::string to_json(const SessionStats& stats) {
  return nlohmann::json{{"data_bytes_sent", stats.data_bytes_sent},
                        {"data_messages_sent", stats.data_messages_sent},
                        {"control_bytes_sent", stats.control_bytes_sent},
                        {"control_messages_sent", stats.control_messages_sent},
                        {"tensors_completed", stats.tensors_completed},
                        {"batches_executed", stats.batches_executed},
                        {"tensors_negotiated_from_cache", stats.tensors_negotiated_from_cache},
                        {"compressed_tensors", stats.compressed_tensors},
                        {"nonfinite_tensors", stats.nonfinite_tensors},
                        {"residual_resets", stats.residual_resets},
                        {"steady_agreements", stats.steady_agreements},
                        {"steady_leaves", stats.steady_leaves},
                        {"guard_halvings", stats.guard_halvings},
                        {"device_batches", stats.device_batches},
                        {"device_enqueue_us", stats.device_enqueue_us}}
      .dump();
}

std::string to_json(const CompressionExplanation& explanation) {
  auto alternatives = nlohmann::json::array();
  for (const auto& alternative : explanation.alternatives) {
    alternatives.push_back({{"mode", to_string(alternative.mode)},
                            {"time_us", alternative.time_us},
                            {"bytes_sent", alternative.bytes_sent},
                            {"is_chosen", alternative.is_chosen}});
  }
  const nlohmann::json object = {
      {"count", explanation.count},   {"mode", to_string(explanation.mode)},
      {"rate", explanation.rate},     {"selected", explanation.selected},
      {"reason", explanation.reason}, {"alternatives", std::move(alternatives)}};
  return object.dump();
}

}  // namespace scalecom
