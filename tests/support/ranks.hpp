#pragma once

#include <functional>

namespace scalecom::test {

/// Runs body(rank) on one thread per rank and waits for all of them. Rethrows the exception of the
/// lowest rank that threw. Assertions belong behind it: they are not thread-safe.
void run_ranks(int size, const std::function<void(int)>& body);

}  // namespace scalecom::test
