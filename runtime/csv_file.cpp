#include "runtime/csv_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/write_file.hpp"

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

CsvFile::CsvFile(std::string variable, const std::string& path, std::string_view header)
    : origin_(std::move(variable) + "=" + path), file_(open_to_write(path, O_APPEND)) {
  const bool is_new = file_.is_open() && lseek(file_.descriptor(), 0, SEEK_CUR) == 0;
  if (file_.is_open() && (!is_new || write_all(file_, header))) return;
  throw Error(StatusCode::invalid_argument,
              fmt::format("{} cannot be written on rank 0: {}; name a file in a folder that exists "
                          "and is yours",
                          origin_, std::generic_category().message(errno)));
}

void CsvFile::append(std::string_view lines) {
  if (!file_.is_open() || write_all(file_, lines)) return;
  log_warning(fmt::format("{} cannot be written any more: {}", origin_,
                          std::generic_category().message(errno)));
  file_ = OpenFile();
}

}  // namespace scalecom
