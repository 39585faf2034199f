#pragma once

#include <cstdint>
#include <vector>

#include "base/deadline.hpp"
#include "runtime/negotiation/tensor_table.hpp"

namespace scalecom::negotiation {

/// Rank 0: the tensors that every rank has submitted and that no agreement has yet. Which of them
/// go next is decided by their priority and, where that is equal, by the order in which they became
/// ready. Adding one, and taking one out, is logarithmic work.
class ReadyTensors {
 public:
  /// `bytes` are what it adds to a fused buffer.
  void add(Tensor& tensor, std::int32_t priority, std::int64_t bytes, TimePoint now);

  /// Takes out the most urgent ones, as many as hold at most `bytes_max` together, at least one.
  /// None overtakes a more urgent one because it is smaller. In the order in which they became
  /// ready: see order_by_priority(). Requires that there is one.
  std::vector<Tensor*> take(std::int64_t bytes_max);

  bool is_empty() const noexcept { return entries_.empty(); }
  std::int64_t bytes() const noexcept { return bytes_; }
  /// When the first one was added since there was none.
  TimePoint since() const noexcept { return since_; }

 private:
  struct Entry {
    Tensor* tensor = nullptr;
    std::int64_t bytes = 0;
    std::int32_t priority = 0;
    std::uint64_t place = 0;  ///< in the order in which all became ready
  };
  static bool is_behind(const Entry& a, const Entry& b) noexcept;

  /// A heap, the most urgent one first: an allocation a tensor would be the most of add().
  std::vector<Entry> entries_;
  std::int64_t bytes_ = 0;
  std::uint64_t next_place_ = 0;
  TimePoint since_{};
};

/// The order in which an agreement's tensors are executed: by priority, equal ones as listed. An
/// agreement travels in the order of readiness, which is that of the cache numbers and so makes
/// long runs; all ranks know the priorities and sort it alike.
void order_by_priority(std::vector<AgreedTensor>& tensors);

}  // namespace scalecom::negotiation
