#pragma once

#include <memory>

#include "kernels/accelerator.hpp"

namespace scalecom::test {

/// The accelerator that this program tests: CUDA device 0, or the fake one.
std::unique_ptr<Accelerator> make_accelerator();

/// Waits until all that is enqueued on `stream` is done; throws after a minute.
void finish(Accelerator& accelerator, StreamHandle stream);

}  // namespace scalecom::test
