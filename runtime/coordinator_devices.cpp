// What the coordinator does for CUDA devices, on which batches go on when the host is done with
// them.
#include <algorithm>
#include <variant>

#include "base/error.hpp"
#include "base/log.hpp"
#include "runtime/coordinator.hpp"

namespace scalecom {
namespace {

// While an agreement waits for what a device has still to tell.
constexpr auto kFiguresPeriod = std::chrono::microseconds(100);

}  // namespace

void Coordinator::look_at_devices_within(Clock::duration period) {
  device_timer_ = std::min(device_timer_, Clock::now() + period);
}

// What has been enqueued may still fail there.
void Coordinator::check_devices(TimePoint now) {
  if (now < device_timer_) return;
  execution_.devices().check();
  execution_.read_device_health();
  const DeviceSamples& samples = execution_.devices().samples();
  awaits_figures_ = awaits_figures_ && samples.are_awaited_by(std::get<Agreement>(events_.front()));
  const bool is_busy = execution_.devices().is_busy() || !samples.is_empty();
  const Clock::duration period = awaits_figures_ ? Clock::duration(kFiguresPeriod) : kDevicePeriod;
  // A device that does nothing more is to have back what it has not used since.
  const TimePoint limits_kept = parts_.devices.session->context()->limit_kept(now);
  device_timer_ = is_busy ? now + period : limits_kept;
}

// The next agreement's guards may need figures of a step that the device is still busy with. What
// is under way goes on meanwhile: a rank that has joined may have that before the same step.
// check_devices() bounds the wait, as it does that of every batch on the device.
bool Coordinator::lacks_figures(const Agreement& agreement) {
  const DeviceSamples& samples = execution_.devices().samples();
  awaits_figures_ = samples.are_awaited_by(agreement);
  if (!awaits_figures_) return false;
  execution_.read_device_health();
  awaits_figures_ = samples.are_awaited_by(agreement);
  if (!awaits_figures_) return false;
  if (const SessionEnd* end = find_failure()) throw Error(end->status);
  look_at_devices_within(kFiguresPeriod);
  return true;
}

// Other ranks need what was enqueued here before an orderly end.
void Coordinator::end_devices(const Status& status) {
  // A batch that is half-way has nothing orderly about it.
  if (status.code() == StatusCode::shut_down && execution_.devices().is_done()) {
    try {
      execution_.devices().close({Deadline::after(kShutdownTime), nullptr});
      execution_.read_device_health();
      return;
    } catch (const Error& error) {
      log_error(error.what());
    }
  }
  execution_.devices().abort();
}

}  // namespace scalecom
