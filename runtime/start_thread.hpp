#pragma once

#include <fmt/format.h>

#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "scalecom/status.hpp"

namespace scalecom {

/// A thread that runs `body`; `whose` says what it is for. Throws Error(unavailable) where the
/// process may have no more.
template <class Thread = std::thread, class Body>
Thread start_thread(std::string_view whose, Body&& body) {
  try {
    return Thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    throw Error(StatusCode::unavailable,
                fmt::format("no thread for {}: {}; raise the limits of threads (ulimit -u, a "
                            "container's --pids-limit)",
                            whose, error.what()));
  }
}

}  // namespace scalecom
