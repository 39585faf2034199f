#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace scalecom {

/// Memory that grows to the largest request and stays.
class Scratch {
 public:
  std::span<std::byte> acquire(std::size_t bytes) {
    if (bytes > capacity_) {
      memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      capacity_ = bytes;
    }
    return {memory_.get(), bytes};
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t capacity_ = 0;
};

}  // namespace scalecom
