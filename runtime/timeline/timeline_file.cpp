#include "runtime/timeline/timeline_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/write_file.hpp"

namespace scalecom {
namespace {

constexpr std::string_view kOpening = "[";
constexpr std::string_view kClosing = "]";
constexpr std::string_view kSeparator = ",\n";
constexpr std::size_t kPageBytes = 4096;

/// Bytes of the first elements that fit into `room` with a separator before them and the closing
/// bracket behind; 0: not one does. A line break is in no element.
std::size_t whole_elements(std::string_view elements, std::size_t room) {
  const std::size_t around = kSeparator.size() + kClosing.size();
  if (elements.size() + around <= room) return elements.size();
  if (room <= around) return 0;
  // Ends before a separator that begins at the first byte too many, or earlier.
  const std::size_t last = elements.rfind(kSeparator, room - around);
  return last == std::string_view::npos ? 0 : last;
}

std::string cause_of(int error) { return std::generic_category().message(error); }

}  // namespace

TimelineFile::TimelineFile(const std::string& path, const std::string& origin, int rank)
    : origin_(origin), file_(open_to_write(path, O_TRUNC)) {
  const bool is_written =
      file_.is_open() && write_all_at(file_, std::string(kOpening) + std::string(kClosing), 0);
  end_ = static_cast<off_t>(kOpening.size());
  if (is_written) return;
  const std::string cause = cause_of(errno);
  throw Error(StatusCode::invalid_argument,
              fmt::format("{}: the timeline {} cannot be written on rank {}: {}; name a file in a "
                          "folder that exists and is yours",
                          origin, path, rank, cause));
}

// A killed process stops writing between two pages, never within one. So a write stays in a page,
// but for the two bytes by which the bracket goes from the end of one to the next: whoever is
// killed between these leaves none. (Stored in mapped pages they were never torn apart; but where a
// disk is full, or somebody shortens the file, such a store ends the process.)
void TimelineFile::append(std::string_view elements) {
  while (file_.is_open() && !elements.empty()) {
    const std::size_t room = kPageBytes - static_cast<std::size_t>(end_) % kPageBytes;
    const std::size_t count = whole_elements(elements, room);
    if (count > 0) {
      write_over_closing((is_empty_ ? "\n" : ",\n") + std::string(elements.substr(0, count)));
      elements.remove_prefix(std::min(elements.size(), count + kSeparator.size()));
      is_empty_ = false;
    } else {
      SCALECOM_ASSERT(room < kPageBytes, "an element of more than a page");
      if (room > 1) write_over_closing(std::string(room - 1, ' '));
      if (file_.is_open()) write_over_closing(" ");
    }
  }
}

void TimelineFile::write_over_closing(const std::string& text) {
  if (!write_all_at(file_, text + std::string(kClosing), end_)) return give_up(cause_of(errno));
  end_ += static_cast<off_t>(text.size());
}

// What the file had is taken back to: its blocks are there, so that no full disk prevents it.
void TimelineFile::give_up(const std::string& cause) {
  const bool is_whole =
      write_all_at(file_, kClosing, end_) &&
      ftruncate(file_.descriptor(), end_ + static_cast<off_t>(kClosing.size())) == 0;
  log_warning(fmt::format("{}: the timeline cannot be written any more: {}; {}", origin_, cause,
                          is_whole ? "what was written before is whole"
                                   : "its end may be missing, which viewers accept"));
  file_ = OpenFile();
}

}  // namespace scalecom
