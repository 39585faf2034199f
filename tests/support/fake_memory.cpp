#include "tests/support/fake_memory.hpp"

#include <fmt/format.h>

#include <cstring>
#include <new>

#include "base/error.hpp"

namespace scalecom::test {
namespace {

constexpr std::align_val_t kAlignment{256};
constexpr std::size_t kGivenBackBlocks = 64;

}  // namespace

void FakeMemory::Delete::operator()(std::byte* memory) const noexcept {
  ::operator delete(memory, kAlignment);
}

std::byte* FakeMemory::allocate(std::size_t bytes, MemoryKind kind) {
  // As on a device, no two are at one address.
  const std::size_t size = bytes == 0 ? 1 : bytes;
  Storage storage(static_cast<std::byte*>(::operator new(size, kAlignment)));
  std::byte* const memory = storage.get();
  std::memset(memory, kFresh, size);
  blocks_[memory] = {std::move(storage), bytes, kind};
  return memory;
}

void FakeMemory::make_ready(const std::byte* memory) { blocks_.at(memory).is_ready = true; }

void FakeMemory::give_back(const std::byte* memory) {
  auto node = blocks_.extract(memory);
  SCALECOM_ASSERT(!node.empty(), "memory is given back twice");
  Block& block = node.mapped();
  std::memset(block.storage.get(), kGivenBack, block.bytes);
  given_back_.push_back(std::move(block));
  if (given_back_.size() > kGivenBackBlocks) given_back_.pop_front();
}

const FakeMemory::Block* FakeMemory::block_of(const MemoryUse& use) const {
  const auto* const begin = static_cast<const std::byte*>(use.begin);
  auto next = blocks_.upper_bound(begin);
  if (next == blocks_.begin()) return nullptr;
  const auto& [first, block] = *--next;
  const auto skipped = static_cast<std::size_t>(begin - first);
  return skipped <= block.bytes && use.bytes <= block.bytes - skipped ? &block : nullptr;
}

std::string FakeMemory::problem(const MemoryUse& use, bool allows_pinned) const {
  if (use.bytes == 0) return "";
  if (use.begin == nullptr) return fmt::format("{} bytes at null", use.bytes);
  const Block* const block = block_of(use);
  if (block == nullptr) {
    return fmt::format(
        "{} bytes that are no memory of the accelerator, were given back, or end "
        "beyond it",
        use.bytes);
  }
  if (!block->is_ready) {
    return fmt::format("{} bytes before the stream has allocated them", use.bytes);
  }
  const bool is_allowed = block->kind == MemoryKind::device || allows_pinned;
  return is_allowed ? "" : fmt::format("{} bytes of pinned host memory in a kernel", use.bytes);
}

bool FakeMemory::is_inside(const MemoryUse& use, const std::byte* memory) const {
  if (use.bytes == 0 || use.begin == nullptr) return false;
  const auto found = blocks_.find(memory);
  return found != blocks_.end() && block_of(use) == &found->second;
}

}  // namespace scalecom::test
