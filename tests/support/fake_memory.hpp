#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace scalecom::test {

/// What an operation reads or writes. Null with any length: nothing.
struct MemoryUse {
  const void* begin = nullptr;
  std::size_t bytes = 0;
};

enum class MemoryKind { device, pinned };

/// The memory that a fake accelerator has given out, all of it host memory, aligned to 256 bytes:
/// tracked, filled with a pattern (NaN as any floating-point dtype) while nobody has written to it
/// and with another one after it was given back.
class FakeMemory {
 public:
  static constexpr unsigned char kFresh = 0xFF;
  static constexpr unsigned char kGivenBack = 0xFB;

  /// It may be used once make_ready() was called.
  std::byte* allocate(std::size_t bytes, MemoryKind kind);
  void make_ready(const std::byte* memory);
  bool is_ready(const std::byte* memory) const { return blocks_.at(memory).is_ready; }
  /// Fills it with kGivenBack. It stays readable until much more was given back.
  void give_back(const std::byte* memory);

  /// "", or why an operation must not use `use`: no memory of the accelerator, not that long, not
  /// ready, given back, or pinned where that is not allowed.
  std::string problem(const MemoryUse& use, bool allows_pinned) const;
  bool is_inside(const MemoryUse& use, const std::byte* memory) const;
  std::size_t blocks() const noexcept { return blocks_.size(); }
  /// Of a piece that was given out.
  std::size_t bytes_of(const std::byte* memory) const { return blocks_.at(memory).bytes; }

 private:
  struct Delete {
    void operator()(std::byte* memory) const noexcept;
  };
  using Storage = std::unique_ptr<std::byte, Delete>;
  struct Block {
    Storage storage;
    std::size_t bytes = 0;
    MemoryKind kind = MemoryKind::device;
    bool is_ready = false;
  };

  std::map<const std::byte*, Block> blocks_;  ///< by where they begin
  std::deque<Block> given_back_;

  const Block* block_of(const MemoryUse& use) const;
};

}  // namespace scalecom::test
