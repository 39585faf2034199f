// Rank 0: what all ranks have submitted gets its place in the one order.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "runtime/negotiation/agreement_writer.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"
#include "runtime/negotiation/mismatch.hpp"

namespace scalecom {
namespace {

using negotiation::DownItem;

void put(negotiation::Writer& writer, DownItem item) {
  writer.put_varint(static_cast<std::uint64_t>(item));
}

// What the tensor adds to a fused buffer; in its warm-up steps a compressed one adds more.
std::int64_t fused_bytes(const TensorSignature& signature) {
  const std::int64_t count = count_of(signature.shape);
  if (signature.compression.mode == CompressionMode::none) return count * size_of(signature.dtype);
  const std::int64_t rate = std::max<std::int64_t>(signature.compression.rate, 1);
  return (count / rate + 1) * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

void Negotiation::Impl::order(Tensor& tensor) {
  if (schedule_) {
    deferred_.push_back(&tensor);
    leave(fmt::format("every rank has submitted tensor {}, which is none of the schedule's",
                      *tensor.name));
  } else if (!tensor.groups.empty()) {
    learner_.reset();
    Writer item;
    put(item, DownItem::mismatch);
    item.put_string(*tensor.name);
    item.put_string(negotiation::describe_mismatch(*tensor.name, tensor.groups));
    publish(item);
  } else if (tensor.local.kind == OperationKind::barrier) {
    barriers_.push_back(&tensor);
  } else {
    if (ready_.empty()) ready_since_ = now_;
    ready_.push_back(&tensor);
    ready_bytes_ += fused_bytes(tensor.local);
  }
}

std::optional<TimePoint> Negotiation::Impl::release_time() const {
  if (!barriers_.empty()) return TimePoint::min();
  if (ready_.empty()) return std::nullopt;
  negotiation::ReleaseSituation situation;
  situation.backlog = backlog_;
  situation.ready_bytes = ready_bytes_;
  situation.ready_since = ready_since_;
  situation.last_arrival = last_arrival_;
  if (const Tensor* youngest = table_.last_partial()) situation.youngest_partial = youngest->since;
  const TimePoint until = policy_.hold_until(situation);
  return until == TimePoint::max() ? std::nullopt : std::optional(until);
}

void Negotiation::Impl::release_due() {
  if (has_ended_ || (barriers_.empty() && ready_.empty())) return;
  if (!barriers_.empty()) release(barriers_);
  const std::optional<TimePoint> time = release_time();
  if (!time || *time > now_) return;
  release_all();
  start_schedule_if_due();
}

void Negotiation::Impl::release_all() {
  if (!barriers_.empty()) release(barriers_);
  if (ready_.empty()) return;
  release(ready_);
  ready_bytes_ = 0;
}

void Negotiation::Impl::release(std::vector<Tensor*>& tensors) {
  start_generation_if_due(tensors);
  learn(tensors);
  Writer item;
  write_agreement(item, tensors);
  tensors.clear();
  publish(item);
}

// Starting over costs each cached tensor one full request, so it must not come more often than
// that many misses: at worst it doubles what the misses cost anyhow.
void Negotiation::Impl::start_generation_if_due(const std::vector<Tensor*>& tensors) {
  if (table_.room() > 0 || table_.cached_count() == 0) return;
  cache_misses_ += static_cast<std::uint64_t>(
      std::count_if(tensors.begin(), tensors.end(),
                    [&](const Tensor* tensor) { return table_.number_of(*tensor) < 0; }));
  if (cache_misses_ < table_.cached_count()) return;
  if (acknowledged_below() != table_.generation()) return;
  cache_misses_ = 0;
  Writer item;
  put(item, DownItem::generation);
  item.put_varint(table_.generation() + 1);
  publish(item);
}

void Negotiation::Impl::write_agreement(Writer& writer, const std::vector<Tensor*>& tensors) {
  put(writer, DownItem::agreement);
  writer.put_varint(sequence_ + 1);
  negotiation::AgreementWriter agreement(writer);
  std::size_t room = table_.room();
  for (const Tensor* tensor : tensors) {
    const TensorSignature& signature = *tensor->common;
    const bool is_compressed = signature.compression.mode != CompressionMode::none;
    const bool has_extents = negotiation::has_own_first_extent(signature.kind);
    const std::int64_t step = steps_.count(*tensor->name, signature);
    const std::int32_t number = table_.number_of(*tensor);
    if (number < 0 || tensor->common != &tensor->cached) {
      const bool gets_number = number < 0 && room > 0;
      if (gets_number) --room;
      agreement.add_full(*tensor->name, gets_number, step);
      if (has_extents) write_extents(writer, tensor->extents, 0, tensor->extents.size());
    } else if (has_extents) {
      agreement.add_cached_extents(number, tensor->extents);
    } else {
      agreement.add_cached(number, is_compressed ? std::optional(step) : std::nullopt);
    }
  }
  agreement.finish();
}

// Rank 0 takes its own stream like all others, so that all hold the same tables.
void Negotiation::Impl::publish(Writer& item) {
  if (members_.size() > 1) stream_.put_bytes(item.bytes());
  Reader reader(item.bytes());
  apply_item(reader);
}

}  // namespace scalecom
