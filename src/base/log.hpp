#pragma once

#include <string>
#include <string_view>

namespace scalecom {

enum class LogLevel { trace, debug, info, warning, error, fatal, off };

/// Sets the threshold and the rank shown in every line. The logger writes to stderr.
void configure_log(LogLevel threshold, int rank);

bool is_logged(LogLevel level) noexcept;

/// One line. Any thread. Check is_logged() first where building the message costs.
void log_message(LogLevel level, std::string_view message);

inline void log_info(std::string_view message) { log_message(LogLevel::info, message); }
inline void log_warning(std::string_view message) { log_message(LogLevel::warning, message); }
inline void log_error(std::string_view message) { log_message(LogLevel::error, message); }

}  // namespace scalecom
