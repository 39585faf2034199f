#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/half.hpp"
#include "scalecom/tensor.hpp"
#include "tests/gpu/accelerators.hpp"

namespace scalecom::test {

/// Arrays that a kernel works on, at the same places in the host's and in an accelerator's memory,
/// with guard bytes around each. Run a pass on the host's and on the device's: afterwards all bytes
/// are the same.
class Arena {
 public:
  /// A place for `count` elements of `dtype`, `misalignment` elements behind a multiple of 256
  /// bytes.
  std::size_t add(DataType dtype, std::int64_t count, int misalignment) {
    const std::size_t begin = (bytes_.size() + kGuard + 255) / 256 * 256 +
                              static_cast<std::size_t>(misalignment * size_of(dtype));
    bytes_.resize(begin + static_cast<std::size_t>(count * size_of(dtype)) + kGuard,
                  std::byte{0xA5});
    slots_.push_back({begin, count, dtype});
    return slots_.size() - 1;
  }

  /// After the last add().
  void allocate() {
    device_ = accelerator_->allocate(bytes_.size());
    staging_ = accelerator_->allocate_pinned(bytes_.size());
  }
  void upload() {
    std::memcpy(staging_.get(), bytes_.data(), bytes_.size());
    accelerator_->copy(device_.get(), staging_.get(), bytes_.size(), stream());
    finish(*accelerator_, stream());
  }

  template <class T = std::byte>
  T* host(std::size_t slot) {
    return reinterpret_cast<T*>(bytes_.data() + slots_[slot].begin);
  }
  template <class T = std::byte>
  T* device(std::size_t slot) const {
    return reinterpret_cast<T*>(device_.get() + slots_[slot].begin);
  }
  Accelerator& accelerator() { return *accelerator_; }
  StreamHandle stream() const { return stream_.get(); }

  /// Where host and device differ; "" when they are the same but for the bits of NaNs.
  std::string differences() {
    accelerator_->copy(staging_.get(), device_.get(), bytes_.size(), stream());
    finish(*accelerator_, stream());
    std::vector<std::byte> got(staging_.get(), staging_.get() + bytes_.size());
    if (got == bytes_) return "";
    for (std::size_t s = 0; s < slots_.size(); ++s) {
      for (std::int64_t i = 0; i < slots_[s].count; ++i) {
        const std::size_t bytes = static_cast<std::size_t>(size_of(slots_[s].dtype));
        const std::size_t at = slots_[s].begin + static_cast<std::size_t>(i) * bytes;
        if (std::memcmp(&got[at], &bytes_[at], bytes) == 0) continue;
        if (is_nan(slots_[s].dtype, &got[at]) && is_nan(slots_[s].dtype, &bytes_[at])) {
          std::memcpy(&got[at], &bytes_[at], bytes);
          continue;
        }
        return "slot " + std::to_string(s) + ", element " + std::to_string(i) + " of " +
               std::to_string(slots_[s].count) + " " + to_string(slots_[s].dtype);
      }
    }
    return got == bytes_ ? "" : "a guard";
  }

 private:
  static constexpr std::size_t kGuard = 64;
  struct Slot {
    std::size_t begin;
    std::int64_t count;
    DataType dtype;
  };

  std::unique_ptr<Accelerator> accelerator_ = make_accelerator();
  std::shared_ptr<void> entered_ = accelerator_->enter();
  StreamOwner stream_ = accelerator_->make_stream();
  std::vector<std::byte> bytes_;
  std::vector<Slot> slots_;
  AcceleratorMemory device_;
  AcceleratorMemory staging_;

  static bool is_nan(DataType dtype, const std::byte* value) {
    switch (dtype) {
      case DataType::float32: return std::isnan(kernels::Float32Format::load(value, 0));
      case DataType::float16: return std::isnan(kernels::Float16Format::load(value, 0));
      case DataType::bfloat16: return std::isnan(kernels::Bfloat16Format::load(value, 0));
      case DataType::float64: {
        double wide = 0.0;
        std::memcpy(&wide, value, sizeof(wide));
        return std::isnan(wide);
      }
      default: return false;
    }
  }
};

}  // namespace scalecom::test
