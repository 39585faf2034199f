#include "runtime/health_file.hpp"

#include <fmt/format.h>

#include <string>

#include "runtime/settings.hpp"

namespace scalecom {
namespace {

constexpr const char* kHeader =
    "step,name,elements,rate,halvings,sampled_chunks,relative_error,mean_relative_error,"
    "residual_to_gradient,mean_residual_to_gradient,hamming_distance,chunk_overlap,"
    "byte_true_rate\n";

std::string line_of(const CompressionHealth& health) {
  return fmt::format("{},{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g}\n",
                     health.step, CsvFile::quoted(health.name), health.elements, health.rate,
                     health.halvings, health.sampled_chunks, health.relative_error,
                     health.mean_relative_error, health.residual_to_gradient,
                     health.mean_residual_to_gradient, health.hamming_distance,
                     health.chunk_overlap, health.byte_true_rate);
}

}  // namespace

HealthFile::HealthFile(const Config& config)
    : file_(variable_of(config, "HEALTH_FILE"), config.health_file, kHeader) {}

void HealthFile::append(std::span<const CompressionHealth> lines) {
  std::string text;
  for (const CompressionHealth& line : lines) text += line_of(line);
  file_.append(text);
}

}  // namespace scalecom
