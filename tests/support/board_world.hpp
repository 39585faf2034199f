#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "transport/shm/board.hpp"

namespace scalecom::test {

/// Boards of `size` ranks in one process, over plain memory.
class BoardWorld {
 public:
  explicit BoardWorld(int size, std::size_t slot_bytes = 4096)
      : size_(size),
        slot_bytes_(slot_bytes),
        bytes_(Board::bytes_for(size, slot_bytes)),
        memory_(static_cast<std::byte*>(std::aligned_alloc(Board::kLineBytes, bytes_))) {
    std::fill_n(memory_.get(), bytes_, std::byte{});
  }

  Board make_board(int rank) const {
    return Board({memory_.get(), bytes_}, rank, size_, slot_bytes_);
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  const int size_;
  const std::size_t slot_bytes_;
  const std::size_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace scalecom::test
