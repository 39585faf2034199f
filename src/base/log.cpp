#include "base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace scalecom {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::trace: return spdlog::level::trace;
    case LogLevel::debug: return spdlog::level::debug;
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: return spdlog::level::err;
    case LogLevel::fatal: return spdlog::level::critical;
    case LogLevel::off: return spdlog::level::off;
  }
  return spdlog::level::info;
}

// Ours alone: other copies of spdlog in the process keep their own registry.
spdlog::logger& logger() {
  static spdlog::logger instance = [] {
    spdlog::logger made("scalecom", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made.set_level(spdlog::level::warn);
    made.set_pattern("[%H:%M:%S.%e] scalecom %l: %v");
    return made;
  }();
  return instance;
}

}  // namespace

void configure_log(LogLevel threshold, int rank) {
  logger().set_level(to_spdlog(threshold));
  logger().set_pattern("[%H:%M:%S.%e] scalecom rank " + std::to_string(rank) + " %l: %v");
}

bool is_logged(LogLevel level) noexcept { return logger().should_log(to_spdlog(level)); }

void log_message(LogLevel level, std::string_view message) {
  logger().log(to_spdlog(level), message);
}

}  // namespace scalecom
