#include "kernels/cuda/table.hpp"

#include <fmt/format.h>

#include "base/error.hpp"

namespace scalecom::kernels::cuda {

StagedTable::StagedTable(std::size_t bytes)
    : bytes_(bytes),
      staging_(device::cuda::allocate_pinned(bytes)),
      device_(device::cuda::allocate_device(bytes)) {}

std::size_t StagedTable::take(std::size_t bytes) {
  constexpr std::size_t kAlignment = alignof(std::max_align_t);
  const std::size_t begin = used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  SCALECOM_ASSERT(used_ <= bytes_, fmt::format("{} of {} bytes of a table", used_, bytes_));
  return begin;
}

void StagedTable::upload(device::cuda::StreamHandle stream) const {
  if (used_ > 0) device::cuda::copy_to_device(device_.get(), staging_.get(), used_, stream);
}

}  // namespace scalecom::kernels::cuda
