#include "runtime/device/device_exchange.hpp"

#include <fmt/format.h>

#include <numeric>
#include <utility>

#include "base/error.hpp"
#include "runtime/part_rows.hpp"
#include "runtime/tensor_memory.hpp"
#include "runtime/tensor_scales.hpp"

namespace scalecom {
namespace {

using Extents = std::vector<std::int64_t>;

Extents times(Extents rows, std::int64_t factor) {
  for (std::int64_t& value : rows) value *= factor;
  return rows;
}

std::int64_t sum_of(std::span<const std::int64_t> values) {
  return std::reduce(values.begin(), values.end(), std::int64_t{0});
}

}  // namespace

DeviceExchange::DeviceExchange(DeviceLane& lane, DeviceContext& context, DeviceExchangeBatch batch)
    : lane_(lane),
      context_(context),
      batch_(std::move(batch)),
      rank_(lane.collectives().rank()),
      size_(lane.collectives().size()) {}

DeviceOperation::Collective DeviceExchange::step() {
  if (transfers_.empty()) prepare();
  if (next_ < transfers_.size()) {
    return [this, place = next_++](const WaitContext& context) {
      if (place == 0) lane_.go_to_wire();
      start(place, context);
    };
  }
  lane_.return_from_wire();
  finish();
  return {};
}

void DeviceExchange::prepare() {
  const BatchKind kind = batch_.batch.kind;
  if (kind == BatchKind::broadcast) return prepare_broadcast();
  transfers_.resize(batch_.tensors.size());
  if (kind == BatchKind::reduce_scatter) return prepare_reduce_scatter();
  for (std::size_t place = 0; place < transfers_.size(); ++place) {
    kind == BatchKind::all_gather ? prepare_all_gather(place) : prepare_all_to_all(place);
  }
}

void DeviceExchange::make_result(std::size_t place, std::int64_t rows) {
  Transfer& transfer = transfers_[place];
  transfer.output = batch_.tensors[place]->input;
  transfer.output.shape[0] = rows;
  const auto bytes = static_cast<std::size_t>(transfer.output.bytes());
  try {
    transfer.memory = context_.allocate_result(bytes, lane_.passes());
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("tensor {}: its result takes {} bytes on the device: {}",
                                          batch_.tensors[place]->name, bytes, error.what()));
  }
  transfer.result = transfer.memory.get();
  transfer.output.data = transfer.result;
}

void DeviceExchange::prepare_broadcast() {
  std::int64_t total = 0;
  for (const PendingTensor* tensor : batch_.tensors) {
    total += DeviceLane::slot_bytes(tensor->input.bytes());
  }
  Transfer& all = transfers_.emplace_back();
  all.sent = {total};
  if (batch_.tensors.size() == 1) {
    all.sent = {batch_.tensors[0]->input.bytes()};
    all.result = output_of(*batch_.tensors[0]);
    return;
  }
  is_unpacked_ = true;
  all.result = lane_.acquire(DeviceLane::Buffer::packed, static_cast<std::size_t>(total));
  std::vector<CopyTensor> in;
  std::vector<CopyTensor> out;
  std::byte* slot = all.result;
  for (const PendingTensor* tensor : batch_.tensors) {
    const std::int64_t bytes = tensor->input.bytes();
    std::byte* const output = output_of(*tensor);
    in.push_back({slot, output, bytes, DataType::uint8, {}});
    out.push_back({output, slot, bytes, DataType::uint8, {}});
    slot += DeviceLane::slot_bytes(bytes);
  }
  const CopyTable& packing = lane_.assign(DeviceLane::Copy::in, in);
  if (rank_ == batch_.batch.root) packing.scale_copy(lane_.passes());
  lane_.assign(DeviceLane::Copy::out, out);
}

void DeviceExchange::prepare_all_gather(std::size_t place) {
  Transfer& transfer = transfers_[place];
  const TensorView& input = batch_.tensors[place]->input;
  const Extents& rows = gathered_rows(*batch_.agreed[place], size_);
  transfer.received = times(rows, row_bytes(input));
  make_result(place, sum_of(rows));
  const std::int64_t before =
      sum_of(std::span(transfer.received).first(static_cast<std::size_t>(rank_)));
  lane_.accelerator().copy(transfer.result + before, input.data,
                           static_cast<std::size_t>(input.bytes()), lane_.passes());
}

void DeviceExchange::prepare_all_to_all(std::size_t place) {
  Transfer& transfer = transfers_[place];
  const PendingTensor& tensor = *batch_.tensors[place];
  const std::int64_t bytes = row_bytes(tensor.input);
  transfer.rows = received_rows(*batch_.agreed[place], rank_, size_);
  transfer.received = times(transfer.rows, bytes);
  transfer.sent = times(tensor.splits, bytes);
  make_result(place, sum_of(transfer.rows));
}

void DeviceExchange::prepare_reduce_scatter() {
  const DataType dtype = batch_.batch.dtype;
  std::int64_t total = 0;
  for (const PendingTensor* tensor : batch_.tensors) {
    total += DeviceLane::slot_bytes(tensor->input.bytes());
  }
  std::byte* slot = lane_.acquire(DeviceLane::Buffer::packed, static_cast<std::size_t>(total));
  std::vector<CopyTensor> in;
  std::vector<CopyTensor> out;
  for (std::size_t place = 0; place < transfers_.size(); ++place) {
    Transfer& transfer = transfers_[place];
    const PendingTensor& tensor = *batch_.tensors[place];
    const Extents rows = even_rows(tensor.input.shape[0], size_);
    transfer.sent = times(rows, row_bytes(tensor.input));
    make_result(place, rows[static_cast<std::size_t>(rank_)]);
    const std::int64_t before =
        sum_of(std::span(transfer.sent).first(static_cast<std::size_t>(rank_)));
    in.push_back(
        {slot, input_of(tensor), tensor.input.count(), dtype, input_scale(tensor.signature)});
    out.push_back({transfer.result, slot + before, transfer.output.count(), dtype,
                   output_scale(tensor.signature, size_)});
    transfer.result = slot;
    slot += DeviceLane::slot_bytes(tensor.input.bytes());
  }
  lane_.assign(DeviceLane::Copy::in, in).scale_copy(lane_.passes());
  lane_.assign(DeviceLane::Copy::out, out);
  is_unpacked_ = true;
}

void DeviceExchange::start(std::size_t place, const WaitContext& context) {
  DeviceCollectives& collectives = lane_.collectives();
  const Transfer& transfer = transfers_[place];
  const StreamHandle wire = lane_.wire();
  switch (batch_.batch.kind) {
    case BatchKind::broadcast:
      return collectives.broadcast(transfer.result, transfer.sent[0], batch_.batch.root, wire,
                                   context);
    case BatchKind::all_gather:
      return collectives.all_gather(transfer.result, transfer.received, wire, context);
    case BatchKind::reduce_scatter:
      return collectives.reduce_scatter(transfer.result, transfer.sent, batch_.batch.dtype,
                                        batch_.batch.op, wire, context);
    case BatchKind::all_to_all:
      return collectives.all_to_all(input_of(*batch_.tensors[place]), transfer.sent,
                                    transfer.result, transfer.received, wire, context);
    default: SCALECOM_ASSERT(false, to_string(batch_.batch.kind));
  }
}

void DeviceExchange::finish() {
  if (is_unpacked_) lane_.table(DeviceLane::Copy::out).scale_copy(lane_.passes());
  if (batch_.batch.kind == BatchKind::broadcast) return;
  for (std::size_t place = 0; place < transfers_.size(); ++place) {
    Transfer& transfer = transfers_[place];
    batch_.tensors[place]->ticket->set_output(std::move(transfer.memory),
                                              std::move(transfer.output), std::move(transfer.rows));
  }
}

}  // namespace scalecom
