#include "runtime/compression_plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "compress/offset_codec.hpp"

namespace scalecom {
namespace {

// What a compressed tensor takes besides its elements, in us of the runtime and the adapters beyond
// a dense one's: measured in groups of small tensors (docs/experiments/break_even.md).
constexpr double kTensor_s = 5e-6;

/// One tensor's step as part of a batch, in terms of the model.
class Step {
 public:
  Step(std::int64_t count, DataType dtype, const Compression& compression, const PlanCosts& costs)
      : costs_(costs),
        count_(count),
        selected_(selected_count(count, compression.rate)),
        dense_bytes_(count * size_of(dtype)),
        value_bytes_(selected_ * size_of(compression.values) + 1),
        offset_bytes_(encoded_bytes(count, compression.rate)),
        round_(costs.round_elements),
        batch_(std::max(count, std::min(round_, costs.fusion_threshold_bytes / size_of(dtype)))) {}

  std::int64_t selected() const noexcept { return selected_; }

  // Between hosts a round travels while the next is selected or the one before is written; memory
  // is moved by the cores that make the passes.
  double time_s(CompressionMode mode) const {
    if (count_ == 0) return 0.0;
    if (mode == CompressionMode::none) return share_s(dense_bytes_);
    const double passes_s = this->passes_s(mode);
    const double exchanges_s = offsets_s(mode) + share_s(value_bytes_);
    const double hidden_s = std::min(passes_s, exchanges_s) * hidden_share();
    return kTensor_s + passes_s + exchanges_s - hidden_s;
  }

  // One pass that selects or takes, and the one that writes the result. Cyclic, the others follow a
  // leader by a round, or by all of what is shorter.
  double passes_s(CompressionMode mode) const {
    const KernelCosts& kernels = costs_.kernels;
    const auto elements = static_cast<double>(count_);
    const double waited =
        mode == CompressionMode::cyclic ? std::min(elements, static_cast<double>(round_)) : 0.0;
    const double more_selected = static_cast<double>(selected_) - elements / kPassChunk;
    return (elements + waited) / kernels.swept_elements_per_s +
           elements / kernels.filled_elements_per_s + more_selected / kernels.taken_elements_per_s;
  }

  double bytes_sent(CompressionMode mode) const {
    const double share = static_cast<double>(costs_.ranks - 1) / costs_.ranks;
    if (mode == CompressionMode::none) return 2 * share * static_cast<double>(dense_bytes_);
    return share * static_cast<double>(2 * value_bytes_ + offset_bytes_);
  }

 private:
  // The first round's selection and the last one's values have nothing beside them.
  double hidden_share() const {
    const std::int64_t rounds = std::max<std::int64_t>(1, batch_ / round_);
    return costs_.overlaps ? 1.0 - 1.0 / static_cast<double>(rounds) : 0.0;
  }

  // An all-gather moves half of what an all-reduce of as many bytes does; along a chain of ranks a
  // broadcast moves them once, an all-reduce 2 (n-1)/n times.
  double offsets_s(CompressionMode mode) const {
    const double n = costs_.ranks;
    return share_s(offset_bytes_) * (mode == CompressionMode::cyclic ? n / (2 * (n - 1)) : 0.5);
  }

  // Of an exchange that the whole batch makes: what it takes besides its bytes is shared.
  double share_s(std::int64_t bytes) const {
    const double share = static_cast<double>(count_) / static_cast<double>(batch_);
    const auto together = static_cast<std::int64_t>(static_cast<double>(bytes) / share);
    return costs_.all_reduce_time_s(together) * share;
  }

  const PlanCosts& costs_;
  const std::int64_t count_;
  const std::int64_t selected_;
  const std::int64_t dense_bytes_;
  const std::int64_t value_bytes_;
  const std::int64_t offset_bytes_;
  const std::int64_t round_;
  const std::int64_t batch_;  ///< elements of as many such tensors as travel together
};

std::string reason_of(const CompressionExplanation& explanation, const Compression& compression,
                      const Step& step, const PlanCosts& costs) {
  if (compression.mode == CompressionMode::none) return "it is not compressed";
  std::string reason =
      costs.ranks == 1
          ? "auto: one rank sends nothing"
          : fmt::format(
                "auto: dense takes {:.1f} us, sharded {:.1f} us, of which its passes "
                "over memory take {:.1f} us",
                explanation.alternatives.front().time_us, explanation.alternatives.back().time_us,
                1e6 * step.passes_s(CompressionMode::sharded));
  if (!costs.why_dense.empty()) reason = "auto: dense, as " + costs.why_dense;
  if (compression.mode != CompressionMode::automatic) {
    reason = fmt::format("the mode is {}", to_string(compression.mode));
  }
  if (compression.mode == CompressionMode::hierarchical) {
    reason += "; its time is without the average inside a host";
  }
  if (explanation.mode != CompressionMode::none && compression.warmup_steps > 0) {
    reason += fmt::format("; dense in the first {} steps", compression.warmup_steps);
  }
  if (explanation.mode != CompressionMode::none && compression.ramp_steps > 0) {
    reason += fmt::format("; at milder rates in the {} steps {}", compression.ramp_steps,
                          compression.warmup_steps > 0 ? "after them" : "at first");
  }
  return reason;
}

}  // namespace

CompressionExplanation plan_compression(std::int64_t count, DataType dtype,
                                        const Compression& compression, const PlanCosts& costs) {
  const bool is_asked_for = compression.mode != CompressionMode::none;
  const Step step(count, dtype, is_asked_for ? compression : Compression{}, costs);
  CompressionExplanation explanation;
  explanation.count = count;
  explanation.mode = compression.mode;
  for (const CompressionMode mode : {CompressionMode::none, CompressionMode::cyclic,
                                     CompressionMode::hierarchical, CompressionMode::sharded}) {
    if (mode != CompressionMode::none && !is_asked_for) continue;
    if (mode == CompressionMode::hierarchical && compression.mode != mode) continue;
    const double time_us = costs.ranks == 1 ? 0.0 : 1e6 * step.time_s(mode);
    explanation.alternatives.push_back({mode, time_us, step.bytes_sent(mode), false});
  }
  if (compression.mode == CompressionMode::automatic) {
    const bool is_sparse_faster =
        costs.why_dense.empty() &&
        explanation.alternatives.back().time_us < explanation.alternatives.front().time_us;
    explanation.mode = is_sparse_faster ? CompressionMode::sharded : CompressionMode::none;
  }
  for (auto& alternative : explanation.alternatives) {
    alternative.is_chosen = alternative.mode == explanation.mode;
  }
  const bool is_dense = explanation.mode == CompressionMode::none;
  explanation.rate = is_dense ? 1 : compression.rate;
  explanation.selected = is_dense ? count : step.selected();
  explanation.reason = reason_of(explanation, compression, step, costs);
  return explanation;
}

}  // namespace scalecom
