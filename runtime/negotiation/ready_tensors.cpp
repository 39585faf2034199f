#include "runtime/negotiation/ready_tensors.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace scalecom::negotiation {

bool ReadyTensors::is_behind(const Entry& a, const Entry& b) noexcept {
  return a.priority != b.priority ? a.priority < b.priority : a.place > b.place;
}

void ReadyTensors::add(Tensor& tensor, std::int32_t priority, std::int64_t bytes, TimePoint now) {
  if (entries_.empty()) since_ = now;
  entries_.push_back({&tensor, bytes, priority, next_place_++});
  std::push_heap(entries_.begin(), entries_.end(), is_behind);
  bytes_ += bytes;
}

std::vector<Tensor*> ReadyTensors::take(std::int64_t bytes_max) {
  SCALECOM_ASSERT(!entries_.empty(), "no tensor is ready");
  std::int64_t bytes = 0;
  std::vector<Entry> taken;
  do {
    bytes += entries_.front().bytes;
    taken.push_back(entries_.front());
    std::pop_heap(entries_.begin(), entries_.end(), is_behind);
    entries_.pop_back();
  } while (!entries_.empty() && entries_.front().bytes <= bytes_max - bytes);
  bytes_ -= bytes;
  std::sort(taken.begin(), taken.end(),
            [](const Entry& a, const Entry& b) { return a.place < b.place; });
  std::vector<Tensor*> tensors;
  tensors.reserve(taken.size());
  for (const Entry& entry : taken) tensors.push_back(entry.tensor);
  return tensors;
}

// Keys are sorted instead of the tensors: these are moved once.
void order_by_priority(std::vector<AgreedTensor>& tensors) {
  const auto is_before = [](const AgreedTensor& a, const AgreedTensor& b) {
    return a.signature.priority > b.signature.priority;
  };
  if (std::is_sorted(tensors.begin(), tensors.end(), is_before)) return;
  std::vector<std::pair<std::int64_t, std::size_t>> keys;
  keys.reserve(tensors.size());
  for (std::size_t place = 0; place < tensors.size(); ++place) {
    keys.emplace_back(-std::int64_t{tensors[place].signature.priority}, place);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<AgreedTensor> ordered;
  ordered.reserve(tensors.size());
  for (const auto& [key, place] : keys) ordered.push_back(std::move(tensors[place]));
  tensors = std::move(ordered);
}

}  // namespace scalecom::negotiation
