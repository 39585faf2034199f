#include "runtime/negotiation/tensor_table.hpp"

#include <algorithm>
#include <bit>

#include "base/error.hpp"

namespace scalecom::negotiation {

bool agree(const TensorSignature& a, const TensorSignature& b) noexcept {
  // A scale is compared by its bits: NaN is a value like any other.
  const auto same = [](double x, double y) {
    return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
  };
  if (a.kind != b.kind || a.dtype != b.dtype || a.op != b.op || a.device != b.device ||
      a.root != b.root || !same(a.prescale, b.prescale) || !same(a.postscale, b.postscale) ||
      a.first_step != b.first_step || a.priority != b.priority ||
      a.compression.mode != b.compression.mode || a.compression.rate != b.compression.rate ||
      !same(a.compression.beta, b.compression.beta) ||
      a.compression.warmup_steps != b.compression.warmup_steps ||
      a.compression.values != b.compression.values ||
      !same(a.compression.guard, b.compression.guard) ||
      a.compression.ramp_steps != b.compression.ramp_steps || a.shape.size() != b.shape.size()) {
    return false;
  }
  const std::size_t free = has_own_first_extent(a.kind) && !a.shape.empty() ? 1 : 0;
  return std::equal(a.shape.begin() + static_cast<std::ptrdiff_t>(free), a.shape.end(),
                    b.shape.begin() + static_cast<std::ptrdiff_t>(free));
}

TensorTable::TensorTable(std::int64_t cache_capacity)
    : capacity_(static_cast<std::size_t>(
          std::clamp<std::int64_t>(cache_capacity, 0, std::int64_t{1} << 30))) {}

Tensor* TensorTable::find(std::string_view name) {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

Tensor& TensorTable::get(std::string_view name) {
  if (Tensor* known = find(name)) return *known;
  const auto [place, is_new] = tensors_.try_emplace(std::string(name));
  place->second.name = &place->first;
  return place->second;
}

Tensor* TensorTable::find_number(std::uint64_t generation, std::uint64_t number) noexcept {
  if (generation != generation_ && generation + 1 != generation_) return nullptr;
  const std::vector<Tensor*>& numbered = numbered_[generation & 1];
  return number < numbered.size() ? numbered[static_cast<std::size_t>(number)] : nullptr;
}

void TensorTable::assign_number(Tensor& tensor) {
  std::vector<Tensor*>& numbered = numbered_[generation_ & 1];
  SCALECOM_ASSERT(room() > 0 && number_of(tensor) < 0, "cache number for tensor " + *tensor.name);
  tensor.numbers[generation_ & 1] = static_cast<std::int32_t>(numbered.size());
  numbered.push_back(&tensor);
}

void TensorTable::start_generation() {
  ++generation_;
  const std::size_t parity = generation_ & 1;
  for (Tensor* tensor : numbered_[parity]) {
    tensor->numbers[parity] = -1;
    if (!tensor->is_cached() && tensor->arrived == 0 && !tensor->is_partial) {
      tensors_.erase(tensors_.find(*tensor->name));
    }
  }
  numbered_[parity].clear();
}

void TensorTable::list_partial(Tensor& tensor, TimePoint since, Tensor* before) {
  tensor.since = since;
  tensor.is_partial = true;
  tensor.previous = before != nullptr ? before->previous : last_;
  tensor.next = before;
  (tensor.previous != nullptr ? tensor.previous->next : first_) = &tensor;
  (before != nullptr ? before->previous : last_) = &tensor;
}

void TensorTable::unlist_partial(Tensor& tensor) noexcept {
  if (!tensor.is_partial) return;
  tensor.is_partial = false;
  (tensor.previous != nullptr ? tensor.previous->next : first_) = tensor.next;
  (tensor.next != nullptr ? tensor.next->previous : last_) = tensor.previous;
  tensor.previous = tensor.next = nullptr;
}

void TensorTable::withdraw(Tensor& tensor) noexcept {
  unlist_partial(tensor);
  tensor.arrived &= 1;
  tensor.is_sent_up = false;
  tensor.common = nullptr;
  tensor.groups.clear();
  if (tensor.arrived == 0) tensor.extents.clear();
  tensor.stall.reset();
}

void TensorTable::finish(Tensor& tensor) {
  unlist_partial(tensor);
  if (!tensor.is_cached()) {
    tensors_.erase(tensors_.find(*tensor.name));
    return;
  }
  tensor.arrived = 0;
  withdraw(tensor);
  tensor.local_name.clear();
}

}  // namespace scalecom::negotiation
