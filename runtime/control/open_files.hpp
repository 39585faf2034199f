#pragma once

#include <string>

namespace scalecom {

/// Why this process cannot open `more` files or sockets beside those that it has open: what it
/// needs, its limit, and the remedy. Empty: it can.
std::string lack_of_open_files(int more);

}  // namespace scalecom
