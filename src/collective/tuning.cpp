#include "collective/tuning.hpp"

#include <algorithm>

#include "collective/selector.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kBlockBytes = 512 << 10;
constexpr std::size_t kFlatBytesMax = 512 << 10;
// A vector of several blocks of every size.
constexpr std::int64_t kLongBytes = 8 << 20;

}  // namespace

// Flat reads n S in one step where blocks read about 3 S in three.
ShmTuning ShmTuning::defaults(int ranks, std::size_t slot_bytes) {
  const auto n = static_cast<std::size_t>(ranks);
  return {.flat_bytes_max = std::min(slot_bytes, kFlatBytesMax / n),
          .block_bytes = std::min(slot_bytes, kBlockBytes)};
}

std::size_t ShmTuning::block_bytes_for(std::size_t bytes) const noexcept {
  constexpr std::size_t kLineBytes = 64;
  const std::size_t share = (bytes + kBlocksUnderWay - 1) / kBlocksUnderWay;
  const std::size_t lines = (share + kLineBytes - 1) / kLineBytes;
  return std::clamp(lines * kLineBytes, std::min(kBlockBytesMin, block_bytes), block_bytes);
}

Tuning Tuning::defaults(int ranks, std::size_t slot_bytes) {
  return {.between_hosts = {},
          .inside_host = {},
          .shm = ShmTuning::defaults(ranks, slot_bytes),
          .between_block_bytes = slot_bytes};
}

std::size_t choose_between_block_bytes(int hosts, std::size_t slot_bytes, const LinkCosts& link,
                                       const InsideCosts& inside) {
  const auto time_s = [&](std::size_t block) {
    const auto bytes = static_cast<std::int64_t>(block);
    return pipeline_time_s({.algorithm = select_all_reduce_steps(bytes, hosts, link),
                            .hosts = hosts,
                            .block_bytes = bytes,
                            .blocks_under_way = kBlocksUnderWay},
                           kLongBytes, link, inside);
  };
  std::size_t best = slot_bytes;
  for (std::size_t block = slot_bytes / 2; block >= kBlockBytesMin; block /= 2) {
    if (time_s(block) < kClearlyBetter * time_s(best)) best = block;
  }
  return best;
}

}  // namespace scalecom
