#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/deadline.hpp"
#include "runtime/negotiation/tensor_table.hpp"

namespace scalecom::negotiation {

/// Tensors of a schedule at most; longer steps are negotiated.
inline constexpr std::size_t kScheduledTensorsMax = 65'536;

/// How long a rank lets its submitted tensors wait for the rest of the next agreement, at most.
inline constexpr auto kPatienceMax = std::chrono::seconds(1);

/// True when an agreement on tensors with this signature may be scheduled: no rank must be able to
/// finish it, or a part of it, before every rank has begun it, and it must go in steps. An
/// all-reduce of nothing waits for nobody, and an average inside a host for that host alone.
inline bool is_schedulable(const TensorSignature& signature) {
  return signature.kind == OperationKind::all_reduce && count_of(signature.shape) > 0 &&
         signature.op != ReduceOp::adasum &&
         signature.compression.mode != CompressionMode::hierarchical &&
         signature.device == DeviceKind::host;
}

/// One call of a tensor in each round.
struct ScheduledTensor {
  Tensor* tensor = nullptr;
  std::int64_t first_step = 0;  ///< of its call in the first round; 0 without compression
  bool is_restarted = false;    ///< this rank has restored its steps since
};

/// One agreement of each round.
struct ScheduledAgreement {
  std::vector<ScheduledTensor> tensors;
  std::size_t missing = 0;  ///< tensors that this rank has yet to submit for its next turn
};

/// What all ranks repeat without asking each other, and how far this one is. Agreement k of the
/// schedule (0, 1, 2...) is agreements[k % size] in round k / size; its sequence number is
/// sequence_before + 1 + k.
struct Schedule {
  std::vector<ScheduledAgreement> agreements;
  std::uint64_t sequence_before = 0;
  Clock::duration patience{};

  std::uint64_t taken = 0;    ///< agreements that this rank has taken from it
  std::size_t submitted = 0;  ///< its tensors that this rank has submitted and not taken
  /// Since when some are submitted, the next agreement is not complete and nothing is executed.
  std::optional<TimePoint> waiting_since;
  bool is_left = false;  ///< this node has asked for the stop

  // From the stop on: what the members have reported.
  bool is_stopped = false;
  std::uint32_t reported = 0;  ///< bit per member
  std::uint64_t taken_min = 0;
  std::uint64_t taken_max = 0;
  bool is_report_due = false;
  TimePoint next_stop_check{};
  TimePoint stopped_at{};

  std::uint64_t size() const noexcept { return agreements.size(); }
  ScheduledAgreement& at(std::uint64_t k) {
    return agreements[static_cast<std::size_t>(k % size())];
  }
  std::int64_t step_of(const ScheduledTensor& tensor, std::uint64_t k) const noexcept {
    if (!is_compressed(tensor.tensor->cached)) return 0;
    return tensor.first_step + static_cast<std::int64_t>(k / size());
  }
  /// Turns that agreements[place] has had when `taken` agreements are.
  std::uint64_t turns_of(std::uint64_t place, std::uint64_t taken_in_all) const noexcept {
    return taken_in_all / size() + (place < taken_in_all % size() ? 1 : 0);
  }
};

}  // namespace scalecom::negotiation
