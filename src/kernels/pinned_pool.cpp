#include "kernels/pinned_pool.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <exception>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/wait.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kSlabBytes = 8 << 20;
// A line of a device's cache, and so the alignment of all blocks.
constexpr std::size_t kBlockBytesMin = 128;
constexpr auto kEndTime = std::chrono::seconds(2);

}  // namespace

PinnedPool::PinnedPool(Accelerator& accelerator) : accelerator_(accelerator) {
  add_slab(kSlabBytes);
}

PinnedPool::~PinnedPool() {
  try {
    const WaitContext context{Deadline::after(kEndTime), nullptr};
    WaitLoop loop(context);
    while (!is_free()) loop.pause("the last use of pinned memory");
  } catch (const std::exception& error) {
    log_warning(std::string("pinned memory is not freed: ") + error.what());
    for (AcceleratorMemory& slab : slabs_) slab.release();
  }
}

AcceleratorMemory PinnedPool::allocate(std::size_t bytes, StreamHandle stream) {
  const std::size_t size = std::bit_ceil(std::max(bytes, kBlockBytesMin));
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Block> block = take_idle(size);
  if (block == nullptr) block = cut(size);
  ++lent_;
  std::byte* const data = block->data;
  return {data, [this, stream, lent = block.release()](std::byte*) {
            give_back(std::unique_ptr<Block>(lent), stream);
          }};
}

std::unique_ptr<PinnedPool::Block> PinnedPool::take_idle(std::size_t bytes) {
  Blocks& blocks = idle_[bytes];
  const auto found = std::ranges::find_if(
      blocks, [this](const auto& block) { return accelerator_.is_done(block->free.get()); });
  if (found == blocks.end()) return nullptr;
  std::unique_ptr<Block> block = std::move(*found);
  blocks.erase(found);
  return block;
}

// What is left of a slab that is too small stays unused: the next one is as large as a few blocks.
std::unique_ptr<PinnedPool::Block> PinnedPool::cut(std::size_t bytes) {
  auto block = std::make_unique<Block>();
  block->free = accelerator_.make_event();
  if (left_ < bytes) add_slab(std::max(bytes, kSlabBytes));
  block->data = slabs_.back().get() + (slab_bytes_ - left_);
  block->bytes = bytes;
  left_ -= bytes;
  return block;
}

void PinnedPool::add_slab(std::size_t bytes) {
  slabs_.push_back(accelerator_.allocate_pinned(bytes));
  slab_bytes_ = left_ = bytes;
}

// A block whose last use cannot be told is not lent again. One line says so: there are hundreds.
void PinnedPool::give_back(std::unique_ptr<Block> block, StreamHandle stream) noexcept {
  try {
    const auto entered = accelerator_.enter();
    accelerator_.record(block->free.get(), stream);
    const std::lock_guard lock(mutex_);
    Blocks& blocks = idle_[block->bytes];
    blocks.push_back(std::move(block));
    --lent_;
  } catch (const std::exception& error) {  // The device is gone.
    const std::lock_guard lock(mutex_);
    if (!std::exchange(has_lost_, true)) log_error(error.what());
  }
}

bool PinnedPool::is_free() const {
  if (lent_ > 0) throw Error(StatusCode::internal, "the device may still use some of it");
  for (const auto& [bytes, blocks] : idle_) {
    for (const auto& block : blocks) {
      if (!accelerator_.is_done(block->free.get())) return false;
    }
  }
  return true;
}

}  // namespace scalecom
