// Other fusion settings while the session runs.
#include <fmt/format.h>

#include <utility>

#include "base/error.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"

namespace scalecom {
namespace {

// Also of a cycle time that is no number.
bool is_allowed(const FusionSettings& settings) {
  return settings.threshold_bytes >= 0 && settings.threshold_bytes <= kFusionThresholdBytesMax &&
         settings.cycle_time_ms >= kAdaptiveCycleTime && settings.cycle_time_ms <= kCycleTimeMaxMs;
}

std::string describe(const FusionSettings& settings) {
  return fmt::format("a fusion threshold of {} bytes and a cycle time of {} ms",
                     settings.threshold_bytes, settings.cycle_time_ms);
}

}  // namespace

void Negotiation::Impl::change_fusion(const FusionSettings& settings, TimePoint now) {
  SCALECOM_ASSERT(is_root(), "rank 0 changes the fusion settings");
  SCALECOM_ASSERT(is_allowed(settings), describe(settings) + " are not allowed");
  if (has_ended_) return;
  now_ = now;
  next_fusion_ = settings;
  leave("rank 0 changes the fusion settings");
  publish_fusion_if_due();
}

void Negotiation::Impl::publish_fusion_if_due() {
  if (schedule_ || !next_fusion_) return;
  const FusionSettings settings = *std::exchange(next_fusion_, std::nullopt);
  Writer item;
  item.put_enum(negotiation::DownItem::fusion);
  item.put_signed(settings.threshold_bytes);
  item.put_double(settings.cycle_time_ms);
  publish(item);
}

// Steps that were learnt have the cuts of the old settings.
void Negotiation::Impl::apply_fusion(Reader& reader) {
  FusionSettings settings;
  settings.threshold_bytes = reader.get_signed();
  settings.cycle_time_ms = reader.get_double();
  if (!is_allowed(settings)) {
    negotiation::refuse_message(describe(settings) + " are not allowed");
  }
  options_.fusion_threshold_bytes = settings.threshold_bytes;
  policy_ = negotiation::ReleasePolicy(settings.cycle_time_ms, settings.threshold_bytes);
  learner_.reset();
  events_.emplace_back(settings);
}

}  // namespace scalecom
