// What the coordinator does for a rank that has joined.
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "runtime/coordinator.hpp"

namespace scalecom {

DeviceKind Coordinator::zeros_on() const {
  const SessionDevice* device = parts_.devices.session;
  return device != nullptr && device->context() != nullptr ? DeviceKind::cuda : DeviceKind::host;
}

// Its result is thrown away, also where the ticket owns it.
PendingTensor* Coordinator::make_substitute(const AgreedTensor& agreed) {
  auto substitute = std::make_unique<PendingTensor>();
  substitute->name = agreed.name;
  substitute->signature = agreed.signature;
  substitute->ticket = std::make_shared<TicketState>(nullptr);
  const std::size_t splits = first_extents_of_rank(agreed.signature.kind, parts_.size);
  if (agreed.signature.kind == OperationKind::all_to_all) substitute->splits.assign(splits, 0);
  TensorView zeros{nullptr, agreed.signature.dtype, agreed.signature.shape, {}};
  const auto bytes = static_cast<std::size_t>(zeros.bytes());
  if (agreed.signature.device == DeviceKind::host) {
    substitute->zeros = std::make_unique<std::byte[]>(bytes);
  } else {
    const std::shared_ptr<DeviceContext> device = parts_.devices.session->context();
    zeros.device = {agreed.signature.device, device->accelerator().index()};
    DeviceContext::Zeros there = device->allocate_zeros(bytes);
    substitute->zeros = std::move(there.memory);
    substitute->ready = std::move(there.ready);
  }
  zeros.data = substitute->zeros.get();
  substitute->input = substitute->output = zeros;
  PendingTensor* tensor = substitute.get();
  substitutes_.emplace(tensor, std::move(substitute));
  return tensor;
}

// Every rank's ticket has the last rank to join as its output.
void Coordinator::end_join(const Joined& joined) {
  const auto found = pending_.find(kJoinName);
  SCALECOM_ASSERT(found != pending_.end(), "all ranks have joined, but not this one");
  PendingTensor* join = &found->second;
  std::shared_ptr<std::byte[]> rank(new std::byte[sizeof(std::int64_t)]);
  const std::int64_t last = joined.last_rank;
  std::memcpy(rank.get(), &last, sizeof last);
  join->ticket->set_output(std::move(rank), {nullptr, DataType::int64, {1}, {}});
  complete({&join, 1});
}

}  // namespace scalecom
