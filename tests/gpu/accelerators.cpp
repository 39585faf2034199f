#include "tests/gpu/accelerators.hpp"

#include <chrono>
#include <stdexcept>
#include <thread>

namespace scalecom::test {

void finish(Accelerator& accelerator, StreamHandle stream) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  const EventOwner event = accelerator.make_event();
  accelerator.record(event.get(), stream);
  while (!accelerator.is_done(event.get())) {
    if (std::chrono::steady_clock::now() > end) throw std::runtime_error("the stream hangs");
    std::this_thread::yield();
  }
}

}  // namespace scalecom::test
