#pragma once

#include <string>
#include <vector>

#include "scalecom/explanation.hpp"
#include "scalecom/health.hpp"
#include "scalecom/session.hpp"

namespace scalecom {

// What the C interface hands out as JSON; see scalecom/c_api.h. Any thread.

std::string to_json(const std::vector<ResidualInfo>& residuals);
std::string to_json(const std::vector<CompressionHealth>& tensors);
std::string to_json(const SessionStats& stats);
std::string to_json(const CompressionExplanation& explanation);

}  // namespace scalecom
