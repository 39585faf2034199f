#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "scalecom/status.hpp"

namespace scalecom {

/// In one line. A byte that is no UTF-8, as a path may have, becomes U+FFFD, where dump() throws.
inline std::string to_json_line(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// read(the JSON in `text`), which another rank has sent. Throws Error(internal) that begins with
/// `what`, as the JSON library's own is not to reach a caller, where it is none or lacks something.
template <class Read>
auto read_json(const std::string& text, const std::string& what, const Read& read) {
  try {
    return read(nlohmann::json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    throw Error(StatusCode::internal, what + " cannot be read: " + error.what());
  }
}

}  // namespace scalecom
