#pragma once

#include <chrono>
#include <thread>

#include "base/deadline.hpp"

namespace scalecom::test {

/// Gives the core to others until `is_so()`; false: it did not come true within the limit.
template <class IsSo>
bool yield_until(std::chrono::seconds limit, const IsSo& is_so) {
  const Deadline deadline = Deadline::after(limit);
  while (!is_so()) {
    if (deadline.has_passed()) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace scalecom::test
