#pragma once

#include <optional>
#include <span>

#include "runtime/autotune/autotuner.hpp"
#include "runtime/csv_file.hpp"
#include "runtime/negotiation.hpp"
#include "runtime/tensor_queue.hpp"
#include "scalecom/config.hpp"

namespace scalecom {

/// The file of SCALECOM_AUTOTUNE_LOG; nothing where none is to be written. Throws what CsvFile
/// throws.
std::optional<CsvFile> open_autotune_log(const Config& config);

/// A session's fusion settings: those that it was configured with, until rank 0 has tried others
/// (SCALECOM_AUTOTUNE). Confined to the coordinator's thread.
class FusionTuning {
 public:
  /// Throws what open_autotune_log() throws; rank 0 alone writes one.
  FusionTuning(const Config& config, int rank, int size);

  /// What holds on this rank.
  const FusionSettings& settings() const noexcept { return settings_; }

  /// These have their results. Rank 0, while it tunes: what all ranks are to change to, if
  /// anything.
  std::optional<FusionSettings> complete(std::span<PendingTensor* const> tensors);

  /// All ranks have changed, from this place of the order on.
  void apply(const FusionSettings& settings);

  /// `config` with what holds, and "autotune" as the source of what was tuned.
  Config describe(Config config) const;

 private:
  std::string end_tuning();

  FusionSettings settings_;
  bool is_changed_ = false;
  bool tunes_threshold_;
  bool tunes_cycle_time_;
  std::optional<Autotuner> tuner_;  ///< rank 0, until it is done
  std::optional<CsvFile> log_;
  int samples_ = 0;
};

}  // namespace scalecom
