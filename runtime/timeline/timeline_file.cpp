#include "runtime/timeline/timeline_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/error.hpp"
#include "base/log.hpp"

namespace scalecom {
namespace {

constexpr std::string_view kOpening = "[";
constexpr std::string_view kClosing = "\n]\n";

std::string cause_of(int error) { return std::generic_category().message(error); }

}  // namespace

TimelineFile::TimelineFile(const std::string& path, const std::string& origin, int rank)
    : origin_(origin) {
  descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const bool is_written =
      descriptor_ >= 0 && write_all(std::string(kOpening) + std::string(kClosing), 0);
  end_ = static_cast<off_t>(kOpening.size());
  if (is_written) return;
  const std::string cause = cause_of(errno);
  if (descriptor_ >= 0) close(descriptor_);
  throw Error(StatusCode::invalid_argument,
              fmt::format("{}: the timeline {} cannot be written on rank {}: {}; name a file in a "
                          "folder that exists and is yours",
                          origin, path, rank, cause));
}

TimelineFile::~TimelineFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

// One write, and no file in between whose bracket is missing.
void TimelineFile::append(std::string_view elements) {
  if (descriptor_ < 0 || elements.empty()) return;
  std::string text;
  text.reserve(elements.size() + kClosing.size() + 2);
  text += is_empty_ ? "\n" : ",\n";
  text += elements;
  const std::size_t length = text.size();
  text += kClosing;
  if (!write_all(text, end_)) return give_up(cause_of(errno));
  end_ += static_cast<off_t>(length);
  is_empty_ = false;
}

// A write that comes short has met an error, which the next one tells.
bool TimelineFile::write_all(std::string_view text, off_t at) {
  while (!text.empty()) {
    const ssize_t written = pwrite(descriptor_, text.data(), text.size(), at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
    at += written;
  }
  return true;
}

// What the file had is taken back to: its blocks are there, so that no full disk prevents it.
void TimelineFile::give_up(const std::string& cause) {
  const bool is_whole = write_all(kClosing, end_) &&
                        ftruncate(descriptor_, end_ + static_cast<off_t>(kClosing.size())) == 0;
  log_warning(fmt::format("{}: the timeline cannot be written any more: {}; {}", origin_, cause,
                          is_whole ? "what was written before is whole"
                                   : "its end may be missing, which viewers accept"));
  close(descriptor_);
  descriptor_ = -1;
}

}  // namespace scalecom
