#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "device/cuda/memory.hpp"
#include "device/cuda/stream.hpp"
#include "kernels/cpu/half.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom::test {

/// Arrays that a kernel works on, at the same places in host and in device memory, with guard bytes
/// around each. Run a pass on the host's and on the device's: afterwards all bytes are the same.
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
  void allocate() { device_ = device::cuda::allocate_device(bytes_.size()); }
  void upload() {
    device::cuda::copy_to_device(device_.get(), bytes_.data(), bytes_.size(), stream_.handle());
    stream_.synchronize();
  }

  template <class T = std::byte>
  T* host(std::size_t slot) {
    return reinterpret_cast<T*>(bytes_.data() + slots_[slot].begin);
  }
  template <class T = std::byte>
  T* device(std::size_t slot) const {
    return reinterpret_cast<T*>(device_.get() + slots_[slot].begin);
  }
  device::cuda::StreamHandle stream() const { return stream_.handle(); }

  /// Where host and device differ; "" when they are the same but for the bits of NaNs.
  std::string differences() {
    std::vector<std::byte> got(bytes_.size());
    device::cuda::copy_to_host(got.data(), device_.get(), got.size(), stream_.handle());
    stream_.synchronize();
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

  std::vector<std::byte> bytes_;
  std::vector<Slot> slots_;
  device::cuda::DeviceMemory device_;
  device::cuda::Stream stream_;

  static bool is_nan(DataType dtype, const std::byte* value) {
    switch (dtype) {
      case DataType::float32: return std::isnan(kernels::Float32Format::load(value, 0));
      case DataType::float16: return std::isnan(kernels::Float16Format::load(value, 0));
      case DataType::bfloat16: return std::isnan(kernels::Bfloat16Format::load(value, 0));
      default: return false;
    }
  }
};

}  // namespace scalecom::test
