#pragma once

#include <string>
#include <string_view>

#include "base/open_file.hpp"

namespace scalecom {

/// The file at `path`, to write to from its end; made where there is none. `flags`: O_TRUNC,
/// O_APPEND. It waits for nobody: what has no places to write at, a pipe or a terminal, whose
/// reader could hold its writers up, is refused as what cannot be opened is. Then the result is not
/// open, and errno says why.
OpenFile open_to_write(const std::string& path, int flags);

/// Writes all of the text; false with errno where that cannot be.
bool write_all(const OpenFile& file, std::string_view text);

/// As write_all(), at a place of the file.
bool write_all_at(const OpenFile& file, std::string_view text, off_t at);

}  // namespace scalecom
