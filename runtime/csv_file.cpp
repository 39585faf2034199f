#include "runtime/csv_file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace scalecom {

std::string CsvFile::quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string result = "\"";
  for (const char character : text) {
    if (character == '"') result += '"';
    result += character;
  }
  return result + '"';
}

CsvFile::CsvFile(std::string variable, std::string path, std::string_view header)
    : origin_(std::move(variable) + "=" + path) {
  errno = 0;
  file_.open(path, std::ios::app);
  if (file_.is_open() && file_.tellp() == 0) file_ << header << std::flush;
  if (file_) return;
  throw Error(StatusCode::invalid_argument,
              fmt::format("{} cannot be written on rank 0: {}; name a file in a folder that exists "
                          "and is yours",
                          origin_, std::generic_category().message(errno)));
}

void CsvFile::append(std::string_view lines) {
  if (!file_) return;
  file_ << lines;
  if (file_.flush()) return;
  log_warning(fmt::format("{} cannot be written any more: {}", origin_,
                          std::generic_category().message(errno)));
}

}  // namespace scalecom
