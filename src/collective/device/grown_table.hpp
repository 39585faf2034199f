#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <memory>
#include <span>

#include "kernels/pinned_pool.hpp"

namespace scalecom {

/// Where an accelerator's tables are.
struct TablePlace {
  Accelerator& accelerator;
  StreamHandle stream;  ///< they are in the order of it
  PinnedPool& pinned;
};

inline void make_table(const TablePlace& place, std::size_t tensors_max, std::size_t,
                       std::unique_ptr<CopyTable>& table) {
  table = place.accelerator.make_copy_table(tensors_max, place.stream, &place.pinned);
}
inline void make_table(const TablePlace& place, std::size_t tensors_max, std::size_t,
                       std::unique_ptr<StepTable>& table) {
  table = place.accelerator.make_step_table(tensors_max, place.stream, &place.pinned);
}
inline void make_table(const TablePlace& place, std::size_t tensors_max, std::size_t chunks_max,
                       std::unique_ptr<SampleTable>& table) {
  table = place.accelerator.make_sample_table(tensors_max, chunks_max, place.stream, &place.pinned);
}

/// Chunks that a table of these tensors has room for.
template <class Tensor>
std::size_t chunks_of(std::span<const Tensor>) {
  return 0;
}
inline std::size_t chunks_of(std::span<const SampledTensor> tensors) {
  std::size_t chunks = 0;
  for (const SampledTensor& tensor : tensors) chunks += tensor.chunks.size();
  return chunks;
}

/// A CopyTable, StepTable or SampleTable that grows to the most it is given; always in one place.
/// Confined to one thread, which has entered the accelerator.
template <class Table>
class GrownTable {
 public:
  /// Table::assign().
  template <class Tensor>
  Table& assign(const TablePlace& place, std::span<const Tensor> tensors) {
    reserve(place, tensors.size(), chunks_of(tensors));
    table_->assign(tensors, place.stream);
    return *table_;
  }
  /// assign() of as many takes no memory then. What was assigned is gone.
  void reserve(const TablePlace& place, std::size_t tensors, std::size_t chunks) {
    if (table_ != nullptr && tensors <= tensors_max_ && chunks <= chunks_max_) return;
    table_.reset();
    tensors_max_ = std::bit_ceil(std::max({tensors, tensors_max_, kSizeMin}));
    chunks_max_ = std::bit_ceil(std::max({chunks, chunks_max_, kSizeMin}));
    make_table(place, tensors_max_, chunks_max_, table_);
  }
  /// Once something has been assigned.
  Table& operator*() const { return *table_; }

 private:
  static constexpr std::size_t kSizeMin = 64;
  std::unique_ptr<Table> table_;
  std::size_t tensors_max_ = 0;
  std::size_t chunks_max_ = 0;
};

}  // namespace scalecom
