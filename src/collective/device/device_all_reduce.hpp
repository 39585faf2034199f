#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "collective/collectives.hpp"
#include "collective/device/device_lane.hpp"

namespace scalecom {

/// An operation of several steps on a lane: passes, and a collective behind them.
class DeviceOperation {
 public:
  /// Starts the collective of a step, or none where it has none. For once; the operation outlives
  /// it.
  using Collective = std::function<void(const WaitContext& context)>;

  virtual ~DeviceOperation() = default;
  /// Enqueues the passes of the next step and returns its collective; empty: it was the last step.
  /// That collective may be held back until operations before this one have started all of theirs.
  /// The next step follows when it is posted.
  virtual Collective step() = 0;
};

/// A vector in an accelerator's memory that is reduced together with others.
struct DevicePiece {
  Piece piece;
  /// What the piece's input still owes, float32: it is added to the scaled input, up to `limit`,
  /// and becomes what is left of it. Where the result is NaN or Inf it stays what it was, but for
  /// one rounding. Null: nothing. Only for float32, float16 and bfloat16.
  float* owed = nullptr;
  /// Pinned, may be null: not zero afterwards where that was so.
  float* void_mark = nullptr;
  float limit = std::numeric_limits<float>::infinity();
};

/// One dense all-reduce of pieces, as one vector: packed and scaled, reduced, scaled and unpacked.
/// A single piece that is scaled by nothing is reduced in its place.
class DeviceAllReduce final : public DeviceOperation {
 public:
  DeviceAllReduce(DeviceLane& lane, std::vector<DevicePiece> pieces, DataType dtype, ReduceOp op)
      : lane_(lane), pieces_(std::move(pieces)), dtype_(dtype), op_(op) {}

  Collective step() override;

 private:
  void pack();
  void take_owed_along(std::span<const StepTensor> owing);
  void settle_owed();

  DeviceLane& lane_;
  const std::vector<DevicePiece> pieces_;
  std::vector<StepTensor> owing_;    ///< of the pieces that owe, in their order
  std::vector<CopyTensor> settled_;  ///< of those, what scales their results
  float* marks_ = nullptr;           ///< theirs
  const DataType dtype_;
  const ReduceOp op_;
  std::byte* data_ = nullptr;
  std::int64_t count_ = 0;
  bool is_in_place_ = false;
  int steps_ = 0;
};

}  // namespace scalecom
