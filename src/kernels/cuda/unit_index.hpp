#pragma once

#include <cstdint>

/// Which row of a table a unit of work belongs to: plain data, C++17.
namespace scalecom::kernels::cuda {

inline constexpr std::int32_t kFanOut = 32;
inline constexpr int kLevels = 4;

/// Level 0 has the number of the first unit of each row, every higher level each 32nd place of the
/// one below. The highest one used has up to 32 places, which a warp reads at once.
struct UnitIndex {
  const std::int32_t* levels[kLevels] = {};
  std::int32_t sizes[kLevels] = {};
  std::int32_t levels_used = 0;
  std::int32_t units = 0;  ///< of all rows; rounded up to a block's, the number fits likewise
  /// What a launch leaves out: `skipped` units from this one on. `units` are those that it does.
  std::int32_t skip_from = 0;
  std::int32_t skipped = 0;
};

/// The unit that a launch does in place of `number`.
constexpr std::int32_t launched_unit(const UnitIndex& index, std::int32_t number) {
  return number < index.skip_from ? number : number + index.skipped;
}

}  // namespace scalecom::kernels::cuda
