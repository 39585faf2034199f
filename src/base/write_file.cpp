#include "base/write_file.hpp"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace scalecom {
namespace {

// `write_some` writes the begin of a text. A write that comes short has met an error, which the
// next one tells.
template <class WriteSome>
bool write_rest(std::string_view text, const WriteSome& write_some) {
  while (!text.empty()) {
    const ssize_t written = write_some(text);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

OpenFile open_to_write(const std::string& path, int flags) {
  // A pipe without a reader fails at once where O_NONBLOCK is, instead of waiting for one.
  OpenFile file(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | flags, 0666));
  if (file.is_open() && lseek(file.descriptor(), 0, SEEK_END) < 0) return {};
  return file;
}

bool write_all(const OpenFile& file, std::string_view text) {
  return write_rest(text, [&](std::string_view rest) {
    return write(file.descriptor(), rest.data(), rest.size());
  });
}

bool write_all_at(const OpenFile& file, std::string_view text, off_t at) {
  const std::size_t size = text.size();
  return write_rest(text, [&](std::string_view rest) {
    return pwrite(file.descriptor(), rest.data(), rest.size(),
                  at + static_cast<off_t>(size - rest.size()));
  });
}

}  // namespace scalecom
