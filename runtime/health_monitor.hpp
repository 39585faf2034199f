#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/health_file.hpp"
#include "runtime/negotiation.hpp"
#include "scalecom/config.hpp"
#include "scalecom/health.hpp"
#include "sparse/health.hpp"

namespace scalecom {

/// What a rank knows of the health of its compressed tensors, and what the guards have made of it:
/// one entry a tensor that was sampled. Confined to the coordinator's thread.
///
/// A guard changes a tensor's chunk length on all ranks in the same step, without a message:
///
/// - It judges figures that every rank has computed from the same bits: what was selected, and the
///   sum over the ranks. Void steps yield none.
/// - A sample of step s changes step s + 2. A rank plans that step after it has submitted the
///   tensor for step s + 1, so after it has completed s. (Step s + 1 itself may be void and be
///   planned by a rank that is still executing s; step s + 2 cannot, since nobody completes s + 1
///   before every rank has begun it.)
/// - The host is ahead of an accelerator, so a sample of step s there changes step s +
///   kDeviceLeadSteps. Its figures may still not be there when a rank is to plan that step: the
///   step waits for them. What was agreed on before must go on meanwhile: a rank that has joined
///   may have to finish that before it enqueues step s, without which there are no figures. Where
///   the tensor has left the accelerator in between, any step waits for them: samples are judged in
///   one order.
/// - While a change is ahead, samples are of the former length and are not judged.
class HealthMonitor {
 public:
  /// Throws what HealthFile throws; rank 0 alone writes one.
  HealthMonitor(const Config& config, int rank);

  /// Whether the tensor's step is sampled: the last of every SCALECOM_HEALTH_STEPS.
  bool is_sampled(std::int64_t step) const noexcept {
    return period_ > 0 && (step + 1) % period_ == 0;
  }

  /// Whether a guard may change the tensor's chunk length.
  static bool is_guarded(const Compression& compression) noexcept {
    return compression.mode != CompressionMode::none && compression.guard > 0.0;
  }
  /// Whether apply_guards() needs the figures of `sampled`, an earlier step of the tensor.
  static bool must_know(const AgreedTensor& tensor, const AgreedTensor& sampled) noexcept;

  /// Gives the compressed tensors the chunk lengths that their guards have come to.
  void apply_guards(Agreement& agreement) const;

  static constexpr std::int64_t kLeadSteps = 2;
  static constexpr std::int64_t kDeviceLeadSteps = 10;

  /// tensors[i] has health[i] in a step that will be completed; returns what is told of it.
  std::vector<CompressionHealth> record(std::span<const AgreedTensor* const> tensors,
                                        std::span<const TensorHealth> health);

  /// The tensor starts anew, with the chunk length that its options say.
  void forget(const std::string& name) { entries_.erase(name); }

  /// Of every tensor its last figures, ordered by name.
  std::vector<CompressionHealth> health() const;

  /// Chunk lengths that were halved.
  std::int64_t guard_halvings() const noexcept { return guard_halvings_; }

 private:
  struct Entry {
    CompressionHealth last;
    std::int64_t halvings = 0;
    std::int64_t first_step = 0;  ///< from which the last halving counts
    /// Selected elements seen at the present length, and those of them that missed the true top-k.
    std::int64_t seen = 0;
    std::int64_t missed = 0;
  };

  void judge(Entry& entry, const AgreedTensor& tensor, const TensorHealth& health);

  const int rank_;
  const std::int64_t period_;
  std::optional<HealthFile> file_;
  std::map<std::string, Entry> entries_;
  std::int64_t guard_halvings_ = 0;
};

}  // namespace scalecom
