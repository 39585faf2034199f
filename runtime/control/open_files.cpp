#include "runtime/control/open_files.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <system_error>

namespace scalecom {
namespace {

// For what a session opens beside its connections, and for strangers that come.
constexpr std::int64_t kSpare = 24;

// Zero where the system does not tell.
std::int64_t count_open_files() {
  std::error_code error;
  const std::filesystem::directory_iterator files("/proc/self/fd", error);
  return error ? 0 : std::distance(begin(files), end(files));
}

}  // namespace

std::string lack_of_open_files(int more) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {};
  const std::int64_t open = count_open_files();
  const std::int64_t needed = open + more + kSpare;
  if (needed <= static_cast<std::int64_t>(limit.rlim_cur)) return {};
  return fmt::format(
      "this process may open {} files, and needs {} with its connections to the other ranks ({} "
      "are open); raise the limit with ulimit -n {}, or let fewer ranks be a job",
      limit.rlim_cur, needed, open, needed);
}

}  // namespace scalecom
