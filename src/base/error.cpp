#include "base/error.hpp"

#include <cstdio>
#include <cstdlib>

namespace scalecom {

const char* to_string(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::ok: return "ok";
    case StatusCode::invalid_argument: return "invalid argument";
    case StatusCode::mismatch: return "mismatch between ranks";
    case StatusCode::shut_down: return "shut down";
    case StatusCode::rank_lost: return "rank lost";
    case StatusCode::timed_out: return "timed out";
    case StatusCode::unavailable: return "unavailable";
    case StatusCode::internal: return "internal error";
  }
  return "unknown";
}

void assertion_failed(const char* condition, const std::string& details,
                      std::source_location where) {
  std::fprintf(stderr, "scalecom: defect: %s does not hold (%s) at %s:%u in %s\n", condition,
               details.c_str(), where.file_name(), static_cast<unsigned>(where.line()),
               where.function_name());
  std::abort();
}

}  // namespace scalecom
