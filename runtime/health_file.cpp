#include "runtime/health_file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace scalecom {
namespace {

constexpr const char* kHeader =
    "step,name,elements,rate,halvings,sampled_chunks,relative_error,mean_relative_error,"
    "residual_to_gradient,mean_residual_to_gradient,hamming_distance,chunk_overlap,"
    "byte_true_rate\n";

// RFC 4180.
std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string result = "\"";
  for (const char character : text) {
    if (character == '"') result += '"';
    result += character;
  }
  return result + '"';
}

std::string line_of(const CompressionHealth& health) {
  return fmt::format("{},{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g}\n",
                     health.step, quoted(health.name), health.elements, health.rate,
                     health.halvings, health.sampled_chunks, health.relative_error,
                     health.mean_relative_error, health.residual_to_gradient,
                     health.mean_residual_to_gradient, health.hamming_distance,
                     health.chunk_overlap, health.byte_true_rate);
}

}  // namespace

HealthFile::HealthFile(std::string path) : path_(std::move(path)) {
  errno = 0;
  file_.open(path_, std::ios::app);
  if (file_.is_open() && file_.tellp() == 0) file_ << kHeader << std::flush;
  if (file_) return;
  throw Error(StatusCode::invalid_argument,
              fmt::format("SCALECOM_HEALTH_FILE={} cannot be written on rank 0: {}; name a file in "
                          "a folder that exists and is yours",
                          path_, std::generic_category().message(errno)));
}

void HealthFile::append(std::span<const CompressionHealth> lines) {
  if (!file_) return;
  for (const CompressionHealth& line : lines) file_ << line_of(line);
  if (file_.flush()) return;
  log_warning(fmt::format("SCALECOM_HEALTH_FILE={} cannot be written any more: {}", path_,
                          std::generic_category().message(errno)));
}

}  // namespace scalecom
