#pragma once

#include <cstddef>

#include "collective/cost_model.hpp"

namespace scalecom {

/// Blocks that a pipeline has under way at once: the slots of a board.
inline constexpr int kBlocksUnderWay = 4;

/// The shortest block that a choice takes.
inline constexpr std::size_t kBlockBytesMin = 64 << 10;

/// A choice that is to gain less than this over another one, by the model or by measurement, gains
/// noise.
inline constexpr double kClearlyBetter = 0.95;

/// What shared memory is used by; found by measurement (docs/performance.md).
struct ShmTuning {
  /// Up to here every rank reduces everything by itself, in one step.
  std::size_t flat_bytes_max = 0;
  /// Bytes of a block of a long vector.
  std::size_t block_bytes = 0;

  /// Blocks of a vector of `bytes`: as many as can be under way at once, so that the ranks' copies
  /// overlap, unless these would be very short or longer than block_bytes. Whole cache lines.
  std::size_t block_bytes_for(std::size_t bytes) const noexcept;

  static ShmTuning defaults(int ranks, std::size_t slot_bytes);

  bool operator==(const ShmTuning&) const = default;
};

/// What the collectives choose by. The same on all ranks, or they would not fit together.
struct Tuning {
  LinkCosts between_hosts;
  InsideCosts inside_host;
  ShmTuning shm;
  /// Bytes of a block that travels between hosts.
  std::size_t between_block_bytes = 0;
  KernelCosts kernels = {};

  /// Where nothing was measured. `ranks` of the host with the most, slots of `slot_bytes`.
  static Tuning defaults(int ranks, std::size_t slot_bytes);

  bool operator==(const Tuning&) const = default;
};

/// The block between `hosts` that moves a long vector in the least time by the model: `slot_bytes`,
/// unless a smaller one is clearly better.
std::size_t choose_between_block_bytes(int hosts, std::size_t slot_bytes, const LinkCosts& link,
                                       const InsideCosts& inside);

}  // namespace scalecom
