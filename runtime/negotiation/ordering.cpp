// Rank 0: what all ranks have submitted gets its place in the one order.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "runtime/negotiation/agreement_writer.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"
#include "runtime/negotiation/mismatch.hpp"

namespace scalecom {
namespace {

using negotiation::DownItem;

// What the tensor adds to a fused buffer in this step, at most where it is not known yet.
std::int64_t fused_bytes(const TensorSignature& signature, std::int64_t step) {
  const std::int64_t count = count_of(signature.shape);
  const bool is_open = signature.compression.mode == CompressionMode::automatic;
  if (is_open || !is_sparse(signature, step)) return count * size_of(signature.dtype);
  const std::int64_t rate = std::max<std::int64_t>(rate_at(signature.compression, step), 1);
  return (count / rate + 1) * size_of(signature.compression.values);
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
    item.put_enum(DownItem::mismatch);
    item.put_string(*tensor.name);
    item.put_string(negotiation::describe_mismatch(*tensor.name, tensor.groups));
    publish(item);
  } else if (tensor.common->kind == OperationKind::barrier) {
    barriers_.push_back(&tensor);
  } else {
    const TensorSignature& signature = *tensor.common;
    const std::int64_t step = steps_.next(*tensor.name, signature);
    ready_.add(tensor, signature.priority, fused_bytes(signature, step), now_);
  }
}

std::optional<TimePoint> Negotiation::Impl::release_time() const {
  if (!barriers_.empty()) return TimePoint::min();
  if (ready_.is_empty()) return std::nullopt;
  negotiation::ReleaseSituation situation;
  situation.backlog = backlog_ + unsaid_;
  situation.ready_bytes = ready_.bytes();
  situation.ready_since = ready_.since();
  situation.last_arrival = last_arrival_;
  if (const Tensor* youngest = table_.last_partial()) situation.youngest_partial = youngest->since;
  const TimePoint until = policy_.hold_until(situation);
  return until == TimePoint::max() ? std::nullopt : std::optional(until);
}

void Negotiation::Impl::release_due() {
  if (has_ended_) return;
  release_barriers();
  bool has_released = false;
  for (auto time = release_time(); time && *time <= now_; time = release_time()) {
    release(ready_.take(options_.fusion_threshold_bytes));
    has_released = true;
  }
  if (has_released) start_schedule_if_due();
}

void Negotiation::Impl::release_barriers() {
  if (!barriers_.empty()) release(std::exchange(barriers_, {}));
}

// The end does not wait for the backlog.
void Negotiation::Impl::release_all() {
  release_barriers();
  while (!ready_.is_empty()) release(ready_.take(options_.fusion_threshold_bytes));
}

void Negotiation::Impl::release(const std::vector<Tensor*>& tensors) {
  start_generation_if_due(tensors);
  learn(tensors);
  last_agreement_ = now_;
  Writer item;
  write_agreement(item, tensors);
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
  item.put_enum(DownItem::generation);
  item.put_varint(table_.generation() + 1);
  publish(item);
}

void Negotiation::Impl::write_agreement(Writer& writer, const std::vector<Tensor*>& tensors) {
  writer.put_enum(DownItem::agreement);
  writer.put_varint(sequence_ + 1);
  negotiation::AgreementWriter agreement(writer);
  std::size_t room = table_.room();
  for (const Tensor* tensor : tensors) {
    const TensorSignature& signature = *tensor->common;
    const bool has_extents = negotiation::has_own_first_extent(signature.kind);
    const std::int64_t step = steps_.count(*tensor->name, signature);
    const std::int32_t number = table_.number_of(*tensor);
    if (number < 0 || tensor->common != &tensor->cached) {
      const bool gets_number = number < 0 && room > 0;
      if (gets_number) --room;
      agreement.add_full(*tensor->name, gets_number, step, has_joins_ ? &signature : nullptr);
      if (has_extents) write_extents(writer, tensor->extents);
    } else if (has_extents) {
      agreement.add_cached_extents(number, tensor->extents);
    } else {
      agreement.add_cached(number, is_compressed(signature) ? std::optional(step) : std::nullopt);
    }
  }
  agreement.finish();
}

// Rank 0 takes its own stream like all others, so that all hold the same tables.
void Negotiation::Impl::publish(const Writer& item) {
  if (members_.size() > 1) stream_.put_bytes(item.bytes());
  Reader reader(item.bytes());
  apply_item(reader);
}

}  // namespace scalecom
