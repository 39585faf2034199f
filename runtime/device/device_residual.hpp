#pragma once

#include <memory>
#include <vector>

#include "base/wait.hpp"
#include "compress/residual_store.hpp"
#include "runtime/device/device_context.hpp"

namespace scalecom {

/// A residual's values in an accelerator's memory. All of a session share a stream for copies, in
/// which they wait for nothing that the host does not wait for. Confined to the coordinator's
/// thread.
class DeviceResidual final : public ResidualMemory {
 public:
  /// How waits for the device end without it.
  struct Bounds {
    Clock::duration limit{};
    Interrupt* interrupt = nullptr;  ///< outlives the residual
  };
  /// Takes `values`, or zeros if there are none; on the context's own order: see last_use().
  DeviceResidual(std::shared_ptr<DeviceContext> context, std::int64_t count,
                 const std::vector<float>& values, const Bounds& bounds);
  ~DeviceResidual() override;

  float* data() const noexcept;
  /// What uses the values next comes behind it, and says so.
  const std::shared_ptr<const DeviceEvent>& last_use() const noexcept { return last_use_; }
  void set_last_use(std::shared_ptr<const DeviceEvent> event);

  /// For a dense step that leaves nothing of the values: where it says whether it was void (see
  /// DevicePiece). Null: it need not, as an earlier one has still to say.
  float* ask_whether_void();
  /// Whether a step that was asked has left nothing. Those that were void are forgotten.
  bool is_delivered();
  /// The values are used otherwise from here on.
  void forget_delivery() noexcept { delivery_ = {}; }

  std::vector<float> read() const override;
  void scale(double multiply, double divide) override;

 private:
  /// Whatever the memory holds.
  DeviceResidual(std::shared_ptr<DeviceContext> context, std::int64_t count, const Bounds& bounds);
  std::size_t bytes() const noexcept;
  void upload(const std::vector<float>& values);
  AcceleratorMemory staging() const;
  void wait_for_copies(const char* what, Interrupt* interrupt) const;

  const std::shared_ptr<DeviceContext> context_;
  const std::int64_t count_;
  const Bounds bounds_;
  AcceleratorMemory memory_;
  std::shared_ptr<const DeviceEvent> last_use_;
  struct Delivery {
    bool is_asked = false;
    std::shared_ptr<const DeviceEvent> done;
  } delivery_;
  AcceleratorMemory answer_;  ///< pinned, a float
};

}  // namespace scalecom
