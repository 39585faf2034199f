// What the coordinator does for CUDA devices, on which batches go on when the host is done with
// them.
#include <algorithm>
#include <utility>
#include <variant>

#include "base/error.hpp"
#include "base/log.hpp"
#include "runtime/coordinator.hpp"

namespace scalecom {
namespace {

// While an agreement waits for what a device has still to tell, or a residual for memory.
constexpr auto kSoon = std::chrono::microseconds(100);

}  // namespace

void Coordinator::look_at_devices_within(Clock::duration period) {
  device_timer_ = std::min(device_timer_, Clock::now() + period);
}

// A compressed tensor's place is its residual's: without it the step cannot be done as it is
// asked for, and it is known here before any rank has begun it. False: it waits for what is under
// way on the device to give memory back.
bool Coordinator::announce(const PendingTensor& tensor, TimePoint now) {
  if (tensor.signature.kind == OperationKind::join) {
    negotiation_.join(zeros_on(), now);
    return true;
  }
  std::string refusal;
  try {
    if (needs_residual(tensor) && !execution_.devices().reserve_residual(tensor, this)) {
      look_at_devices_within(kSoon);
      return false;
    }
  } catch (const Error& error) {
    refusal = error.what();
  }
  TensorRequest request{tensor.name, tensor.signature, tensor.splits};
  request.signature.refusal = std::move(refusal);
  negotiation_.submit(std::move(request), now);
  return true;
}

// In the order of their submits.
void Coordinator::announce_waiting(TimePoint now) {
  while (!unannounced_.empty() && announce(*unannounced_.front(), now)) unannounced_.pop_front();
}

bool Coordinator::needs_residual(const PendingTensor& tensor) const {
  const TensorSignature& signature = tensor.signature;
  CompressionMode mode = signature.compression.mode;
  if (signature.device != DeviceKind::cuda || mode == CompressionMode::none) return false;
  if (mode != CompressionMode::automatic) return true;
  mode = parts_.choose_mode(count_of(signature.shape), signature.dtype, signature.compression)
             .value_or(CompressionMode::none);
  return mode != CompressionMode::none;
}

// What has been enqueued may still fail there.
void Coordinator::check_devices(TimePoint now) {
  if (now < device_timer_) return;
  execution_.devices().check();
  execution_.read_device_health();
  const DeviceSamples& samples = execution_.devices().samples();
  awaits_figures_ = awaits_figures_ && samples.are_awaited_by(std::get<Agreement>(events_.front()));
  const bool is_awaited = awaits_figures_ || !unannounced_.empty();
  const bool is_busy = execution_.devices().is_busy() || !samples.is_empty() || is_awaited;
  const Clock::duration period = is_awaited ? Clock::duration(kSoon) : kDevicePeriod;
  device_timer_ = is_busy ? now + period : TimePoint::max();
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
  if (const SessionEnd* end = find_failure())
    throw Error(end->status.code(), end->status.message());
  look_at_devices_within(kSoon);
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
