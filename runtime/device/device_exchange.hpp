#pragma once

#include <memory>
#include <span>
#include <vector>

#include "collective/device/device_all_reduce.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/fusion.hpp"
#include "runtime/tensor_queue.hpp"

namespace scalecom {

/// A batch of an accelerator's tensors, of any kind but all-reduce, in its agreement.
struct DeviceExchangeBatch {
  const Batch& batch;
  std::vector<const AgreedTensor*> agreed;
  std::span<PendingTensor* const> tensors;
};

/// Broadcast, all-gather, reduce-scatter, all-to-all. Tensors of a broadcast travel as one, others
/// one after the other. Results are given to the tickets with the last step.
class DeviceExchange final : public DeviceOperation {
 public:
  DeviceExchange(DeviceLane& lane, DeviceContext& context, DeviceExchangeBatch batch);

  Collective step() override;

 private:
  struct Transfer {
    std::byte* result = nullptr;
    std::shared_ptr<std::byte[]> memory;
    TensorView output;
    std::vector<std::int64_t> sent;      ///< bytes for each rank
    std::vector<std::int64_t> received;  ///< bytes from each rank
    std::vector<std::int64_t> rows;      ///< from each rank
  };

  void prepare();
  void prepare_broadcast();
  void prepare_all_gather(std::size_t place);
  void prepare_all_to_all(std::size_t place);
  void prepare_reduce_scatter();
  void start(std::size_t place, const WaitContext& context);
  void finish();
  void make_result(std::size_t place, std::int64_t rows);

  DeviceLane& lane_;
  DeviceContext& context_;
  const DeviceExchangeBatch batch_;
  const int rank_;
  const int size_;
  std::vector<Transfer> transfers_;
  std::size_t next_ = 0;
  bool is_unpacked_ = false;  ///< at the end
};

}  // namespace scalecom
