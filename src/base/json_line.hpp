#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace scalecom {

/// In one line. A byte that is no UTF-8, as a path may have, becomes U+FFFD, where dump() throws.
inline std::string to_json_line(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace scalecom
